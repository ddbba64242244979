//! Compares the description with the answers of apis that have stricter limits, or no room.

use foreman_tests::{Api, Db, eventually, success};
use reqwest::Method;

use super::Contract;
use crate::api::bodies::hang;
use crate::api::{JOB, MODEL, ask, json as read, run};
use crate::metrics::exposition::Exposition;

impl Contract {
    /// Checks answers of apis with stricter limits or without room.
    pub(super) async fn what_a_client_may_not(&mut self, db: &Db) {
        let none = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
        let keys = Api::start(db, &[("FOREMAN_AUTH", "required")]).await;
        let pages = Api::start(db, &[]).await;
        let operations: Vec<(String, Method)> = self
            .operations()
            .filter(|(.., operation)| operation["security"].is_array())
            .map(|(path, method, _)| (path.to_owned(), method.to_uppercase().parse().unwrap()))
            .collect();
        for (path, method) in operations {
            let concrete = path.replace("{id}", none).replace("{name}", "completion");
            self.ask(&keys, method.clone(), &concrete, &path, &[], "").await;
            self.ask(&pages, method, &concrete, &path, &[("origin", "http://evil.example")], "").await;
        }
        let full = [
            ("FOREMAN_CLIENT_MAX_QUEUED", "1"),
            ("FOREMAN_CLIENT_MAX_STREAMS", "1"),
            ("FOREMAN_MAX_BODY", "1KiB"),
            ("FOREMAN_AUTH", "required"),
        ];
        let full = Api::start(db, &full).await;
        let key = db.new_client("full", false).await.key;
        let bearer = format!("Bearer {key}");
        let auth = ("authorization", bearer.as_str());
        let (get, post) = (Method::GET, Method::POST);
        let sent = ask(&keys, post.clone(), "/jobs").bearer_auth(&key).body(JOB).send().await.unwrap();
        let ended = read(sent).await["job_id"].as_str().unwrap().to_owned();
        run(db, ended.parse().unwrap(), success()).await;
        // A wait for a done job ends at once.
        let wait = ("prefer", "wait=60");
        let again = [auth, wait, ("idempotency-key", "k")];
        let submitted =
            ask(&full, post.clone(), "/jobs").bearer_auth(&key).header("idempotency-key", "k").body(JOB);
        let live = read(submitted.send().await.unwrap()).await["job_id"].as_str().unwrap().to_owned();
        self.ask(&full, post.clone(), "/jobs", "/jobs", &[auth], JOB).await;
        self.ask(&full, post.clone(), &format!("/jobs/{ended}/retry"), "/jobs/{id}/retry", &[auth], "").await;
        let held = ask(&full, get.clone(), &format!("/jobs/{live}/events"))
            .bearer_auth(&key)
            .header("accept", "text/event-stream")
            .send()
            .await
            .unwrap();
        let follow = ("accept", "text/event-stream");
        self.ask(
            &full,
            get.clone(),
            &format!("/jobs/{live}/events"),
            "/jobs/{id}/events",
            &[auth, follow],
            "",
        )
        .await;
        let path = format!("/jobs/{live}/stream");
        self.ask(&full, get.clone(), &path, "/jobs/{id}/stream", &[auth], "").await;
        self.ask(&full, get, &format!("/jobs/{live}?wait=1"), "/jobs/{id}", &[auth], "").await;
        drop(held);
        run(db, live.parse().unwrap(), success()).await;
        eventually("a free seat and a 200", async || {
            let request = ask(&full, post.clone(), "/jobs").body(JOB);
            let request = again.iter().fold(request, |request, (name, value)| request.header(*name, *value));
            let status = request.send().await.unwrap().status();
            if status == 200 { Ok(()) } else { Err(status) }
        })
        .await;
        self.ask(&full, post.clone(), "/jobs", "/jobs", &again, JOB).await;
        self.what_bodies_may_not(db, &keys, &full).await;
    }

    /// Sends bodies that are too large or too many to every route. `full` takes small ones only. Exactly the routes whose
    /// bodies are described read them.
    async fn what_bodies_may_not(&mut self, db: &Db, large: &Api, full: &Api) {
        let key = db.new_client("operator", true).await.key;
        // One client may have at most two of the largest bodies under way.
        let _under_way = (hang(large, &key, 0).await, hang(large, &key, 0).await);
        eventually("two bodies in memory", async || {
            let scraped = Exposition::scrape(&large.ops_url).await;
            let used = scraped.sum("foreman_share_used", &[("share", "incoming")]);
            if used == Some(2.0 * f64::from(32 << 20)) { Ok(()) } else { Err(format!("{used:?}")) }
        })
        .await;
        let bodies: Vec<(String, Method, bool)> = self
            .operations()
            .filter(|(_, method, _)| *method != "get")
            .map(|(path, method, operation)| {
                let reads = operation["requestBody"].is_object();
                (path.to_owned(), method.to_uppercase().parse().unwrap(), reads)
            })
            .collect();
        for (path, method, reads) in bodies {
            let concrete = path.replace("{id}", "01ARZ3NDEKTSV4RRFFQ69G5FAV").replace("{model}", MODEL);
            for (api, body, status) in [(full, " ".repeat(1_025), 413), (large, JOB.to_owned(), 429)] {
                let request = ask(api, method.clone(), &concrete).bearer_auth(&key).body(body);
                let answer = request.send().await.unwrap();
                assert_eq!(answer.status() == status, reads, "{method} {path}: {}", answer.status());
                self.check(&method, &path, answer).await;
            }
        }
    }
}
