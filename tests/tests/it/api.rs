//! Tests the api over real HTTP. No worker runs here. Where a job must move, the test does the work of a worker itself.

mod access;
mod artifacts;
mod bad_input;
mod batch;
mod bodies;
mod connections;
pub(super) mod delivering;
mod described;
mod flushing;
mod following;
mod limits;
mod logging;
mod memory;
mod queue;
mod reading;
mod sharing;
mod submitting;
mod users;

use foreman_store::{ClientId, Exit, Holder, JobId, Lease, Offer, Permit, Phase};
use foreman_tests::{Api, Db, http};
use reqwest::{Method, RequestBuilder, Response};
use serde_json::Value;

/// The model that can run jobs on [`publish`]'s host.
const MODEL: &str = "tiny-a";

/// The smallest job.
const JOB: &str = r#"{"model":"tiny-a","messages":[{"role":"user","content":"hello"}]}"#;

/// Publishes the models of a host, as a worker that has ended since.
pub(super) async fn publish(db: &Db) {
    db.run(
        "INSERT INTO host (id, url, ttl, slots, published_at)
         VALUES ('gpu', 'http://127.0.0.1:11434', interval '20 s', 1, now()) ON CONFLICT DO NOTHING",
    )
    .await;
    db.run(
        "INSERT INTO host_model VALUES ('gpu', 'tiny-a:latest', 'tiny-a:latest', true),
                                       ('gpu', 'tiny-embed:latest', 'tiny-embed:latest', false)",
    )
    .await;
}

/// A database with known models, and an api on it.
async fn start(settings: &[(&str, &str)]) -> (Db, Api) {
    let db = Db::fresh().await;
    publish(&db).await;
    let api = Api::start(&db, settings).await;
    (db, api)
}

fn ask(api: &Api, method: Method, path: &str) -> RequestBuilder {
    http().request(method, format!("{}{path}", api.url))
}

async fn get(api: &Api, path: &str) -> Response {
    ask(api, Method::GET, path).send().await.unwrap()
}

async fn post(api: &Api, path: &str, body: impl Into<reqwest::Body>) -> Response {
    ask(api, Method::POST, path).body(body).send().await.unwrap()
}

async fn json(response: Response) -> Value {
    serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
}

/// Checks that an answer is a problem in the promised form, and returns its `code`.
async fn problem(response: Response, status: u16, what: &str) -> String {
    assert_eq!(response.status(), status, "{what}");
    assert_eq!(response.headers()["content-type"], "application/problem+json", "{what}");
    let body = json(response).await;
    assert_eq!(body["status"], status, "{what}");
    assert_eq!(body["error"], body["detail"], "{what}");
    assert!(body["title"].is_string() && body["type"].is_string(), "{what}");
    let error = body["error"].as_str().unwrap();
    assert!(!error.is_empty() && !error.contains('\n') && error.len() < 400, "{what}: {error}");
    body["code"].as_str().unwrap().to_owned()
}

/// A header as text; empty if it is missing.
fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

/// Submits a job and returns its id.
async fn submit(api: &Api, body: &str) -> JobId {
    let answer = post(api, "/jobs", body.to_owned()).await;
    assert_eq!(answer.status(), 202, "{body}");
    json(answer).await["job_id"].as_str().unwrap().parse().unwrap()
}

/// The client that owns this job.
async fn owner(db: &Db, job: JobId) -> ClientId {
    db.value::<sqlx::types::Uuid>(&format!("SELECT client_id FROM job WHERE id = '{}'", job.uuid()))
        .await
        .into()
}

/// Claims this job as a worker would.
async fn claim(db: &Db, holder: &Holder, job: JobId) -> Lease {
    claim_with_priority(db, holder, job, 0).await
}

async fn claim_with_priority(db: &Db, holder: &Holder, job: JobId, priority: i16) -> Lease {
    let load_key: String = db.value(&format!("SELECT load_key FROM job WHERE id = '{}'", job.uuid())).await;
    let load_key = load_key.into();
    let offer = Offer { load_key, client: owner(db, job).await, priority, lower_bound: job, ..db.offer(1) };
    let mut claimed = db.store.claim(holder, &[offer], 1, Permit::Ask).await.unwrap();
    let lease = claimed.pop().unwrap().lease;
    assert_eq!(lease.job_id, job);
    lease
}

/// Runs this job to its end.
async fn run(db: &Db, job: JobId, exit: Exit) {
    let lease = claim(db, &db.holder().await, job).await;
    db.store.begin(&[(&lease, Phase::Working)]).await.unwrap();
    db.settle(&[(lease, exit)]).await.unwrap();
}
