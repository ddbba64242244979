//! Clients that repeat what was answered with 503, and nothing else: every other answer than the one hoped for is an error
//! that they saw.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use foreman_tests::{http, within};
use reqwest::RequestBuilder;
use serde_json::Value;
use tokio::{sync::watch, task::JoinSet, time};

use crate::chat_with_webhook;

/// Each submits, follows its job to the end in long polls, and goes on.
const FOLLOWERS: usize = 8;
/// Each submits at this pace and looks no further.
const SUBMITTERS: usize = 4;
const PACE: Duration = Duration::from_millis(80);

pub(super) struct Load {
    seen: Arc<Seen>,
    over: watch::Sender<bool>,
    clients: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Seen {
    accepted: Mutex<Vec<String>>,
    errors: Mutex<Vec<String>>,
    repeated: AtomicUsize,
}

/// What all clients have seen.
#[derive(Debug)]
pub(super) struct Summary {
    pub(super) accepted: Vec<String>,
    pub(super) errors: Vec<String>,
    pub(super) repeated: usize,
}

impl Load {
    /// Begins; every job has this receiver.
    pub(super) fn start(url: &str, receiver: &str) -> Self {
        let (over, is_over) = watch::channel(false);
        let seen = Arc::new(Seen::default());
        let mut clients = JoinSet::new();
        for number in 0..FOLLOWERS + SUBMITTERS {
            let job = chat_with_webhook(&format!("client {number} sim:tokens=3"), receiver);
            let client =
                Client { url: url.to_owned(), job, seen: Arc::clone(&seen), is_over: is_over.clone() };
            if number < FOLLOWERS {
                clients.spawn(client.submit_and_follow());
            } else {
                clients.spawn(client.submit_steadily());
            }
        }
        Self { seen, over, clients }
    }

    pub(super) fn accepted(&self) -> usize {
        self.seen.accepted.lock().unwrap().len()
    }

    /// Waits until so many more jobs are accepted.
    pub(super) async fn accepted_more(&self, count: usize) {
        let goal = self.accepted() + count;
        within(Duration::from_secs(60), "further accepted jobs", async || match self.accepted() {
            now if now >= goal => Ok(()),
            now => Err(format!("{now} of {goal}")),
        })
        .await;
    }

    /// Ends it, once every client has the answer it waits for.
    pub(super) async fn end(self) -> Summary {
        self.over.send_replace(true);
        self.clients.join_all().await;
        let seen = Arc::into_inner(self.seen).expect("every client has ended");
        Summary {
            accepted: seen.accepted.into_inner().unwrap(),
            errors: seen.errors.into_inner().unwrap(),
            repeated: seen.repeated.into_inner(),
        }
    }
}

struct Client {
    url: String,
    job: Value,
    seen: Arc<Seen>,
    is_over: watch::Receiver<bool>,
}

impl Client {
    async fn submit_steadily(self) {
        let mut pace = time::interval(PACE);
        while !*self.is_over.borrow() {
            pace.tick().await;
            self.submit().await;
        }
    }

    async fn submit_and_follow(self) {
        while !*self.is_over.borrow() {
            let Some(id) = self.submit().await else { continue };
            let path = format!("{}/jobs/{id}?wait=30", self.url);
            while let Some(job) = self.answer(200, || http().get(&path)).await {
                if !job["completed_at"].is_null() {
                    break;
                }
            }
        }
    }

    async fn submit(&self) -> Option<String> {
        let request = || http().post(format!("{}/jobs", self.url)).body(self.job.to_string());
        let id = self.answer(202, request).await?["job_id"].as_str().unwrap().to_owned();
        self.seen.accepted.lock().unwrap().push(id.clone());
        Some(id)
    }

    /// The body of the answer with this status; a 503 is asked again after the time it names.
    async fn answer(&self, hoped_for: u16, request: impl Fn() -> RequestBuilder) -> Option<Value> {
        loop {
            let answer = match request().send().await {
                Ok(answer) => answer,
                Err(error) => return self.saw(format!("{error:?}")),
            };
            let status = answer.status().as_u16();
            let again_after =
                answer.headers().get("retry-after").map(|value| value.to_str().unwrap().parse().unwrap());
            match (status, again_after, answer.text().await) {
                (status, _, Ok(body)) if status == hoped_for => {
                    return Some(serde_json::from_str(&body).unwrap());
                }
                (503, Some(seconds), _) => {
                    self.seen.repeated.fetch_add(1, Ordering::Relaxed);
                    time::sleep(Duration::from_secs(seconds)).await;
                }
                (status, _, body) => return self.saw(format!("{status}: {body:?}")),
            }
        }
    }

    fn saw(&self, error: String) -> Option<Value> {
        self.seen.errors.lock().unwrap().push(error);
        None
    }
}
