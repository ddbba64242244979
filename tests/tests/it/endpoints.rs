//! Registered endpoints: what is promised of them, through the real api and worker, and by OpenAI's own client.

mod gathering;
mod managing;
mod openai;
mod recovering;

use std::ops::Deref;

use foreman_tests::{Received, Receiver, eventually, http};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// 32 bytes in base64.
const SECRET_KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

pub(crate) const KEY: (&str, &str) = ("FOREMAN_SECRET_KEY", SECRET_KEY);

/// A schedule whose waits a test can sit out.
const QUICK: (&str, &str) = ("FOREMAN_WEBHOOK_RETRY_SCHEDULE", "10ms,10ms,10ms,10ms");

/// An Ollama, a worker, an api and a receiver.
struct House {
    house: crate::house::House,
    receiver: Receiver,
}

impl Deref for House {
    type Target = crate::house::House;

    fn deref(&self) -> &Self::Target {
        &self.house
    }
}

impl House {
    async fn start() -> Self {
        Self::with(Receiver::start().await, &[KEY]).await
    }

    async fn with(receiver: Receiver, settings: &[(&str, &str)]) -> Self {
        Self { house: crate::house::House::start(settings, settings).await, receiver }
    }

    /// Asks a route. `null` stands for no body, and for an answer without one.
    async fn ask(&self, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        let request = http().request(method, format!("{}{path}", self.api.url));
        let request = if body.is_null() { request } else { request.body(body.to_string()) };
        let answer = request.send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        (status, if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() })
    }

    /// Makes an endpoint at this path of the receiver, with these fields beside the URL.
    async fn endpoint(&self, path: &str, mut fields: Value) -> Value {
        fields["url"] = self.receiver.url(path).into();
        let (status, made) = self.ask(Method::POST, "/webhooks", fields).await;
        assert_eq!(status, 201, "{made}");
        made
    }

    async fn change(&self, endpoint: &Value, fields: Value) -> Value {
        let (status, changed) = self.ask(Method::PATCH, &path_of(endpoint), fields).await;
        assert_eq!(status, 200, "{changed}");
        changed
    }

    async fn post(&self, endpoint: &Value, action: &str, body: Value) -> (StatusCode, Value) {
        self.ask(Method::POST, &format!("{}/{action}", path_of(endpoint)), body).await
    }

    /// Runs a job to its end, and returns its id.
    async fn run(&self, mut job: Value) -> String {
        job["prompt"] = "sim:tokens=1".into();
        let id = self.api.submit(&job).await;
        eventually("the end of a job", async || {
            let state = self.api.get(&format!("/jobs/{id}?wait=10")).await["state"].clone();
            if state == "done" { Ok(()) } else { Err(state) }
        })
        .await;
        id
    }

    /// Waits for this many requests in all.
    async fn until_received(&self, count: usize) -> Vec<Received> {
        eventually(&format!("{count} webhooks"), async || {
            let received = self.receiver.received();
            if received.len() >= count { Ok(received) } else { Err(format!("{} have come", received.len())) }
        })
        .await
    }

    /// Waits until nothing is on its way, in the outbox or after it.
    async fn until_all_is_sent(&self) {
        let left = "SELECT (SELECT count(*) FROM outbox) + (SELECT count(*) FROM webhook_delivery)";
        eventually("every webhook has ended", async || {
            let left: i64 = self.db.value(left).await;
            if left == 0 { Ok(()) } else { Err(left) }
        })
        .await;
    }

    /// What came at a path, as job and state, in the order of arrival.
    fn came_at(&self, path: &str) -> Vec<(String, String)> {
        let received = self.receiver.received();
        let of = |body: Value| {
            (body["job_id"].as_str().unwrap().to_owned(), body["state"].as_str().unwrap().to_owned())
        };
        received.iter().filter(|request| request.path == path).map(|request| of(request.json())).collect()
    }

    fn states_at(&self, path: &str) -> Vec<String> {
        self.came_at(path).into_iter().map(|(_, state)| state).collect()
    }
}

fn job() -> Value {
    json!({"model": "tiny-a"})
}

fn path_of(endpoint: &Value) -> String {
    format!("/webhooks/{}", endpoint["endpoint_id"].as_str().unwrap())
}
