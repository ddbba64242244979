//! What a webhook says: what the api says of the same event, inline or by URL, and the same in every attempt.

use foreman_store::NewJob;
use foreman_tests::{Api, Db, Received, Receiver, ReceiverAnswer, Worker, eventually, http};
use ollama_sim::{Config, Sim};
use serde_json::{Value, json};

use super::{dispatcher, done_jobs_to, job_to, logged};
use crate::chat_with_webhook;

async fn received(receiver: &Receiver, count: usize) -> Vec<Received> {
    eventually(&format!("{count} webhooks"), async || {
        let received = receiver.received();
        if received.len() == count { Ok(received) } else { Err(format!("{} have come", received.len())) }
    })
    .await
}

/// A job through everything, with these settings for api and worker. Returns its id, the api and the webhooks.
async fn run(db: &Db, prompt: &str, settings: &[(&str, &str)]) -> (String, Api, Vec<Received>) {
    let receiver = Receiver::start().await;
    let sim = Sim::start(Config::default()).await.unwrap();
    let ollama = sim.url();
    let (api, _worker) = tokio::join!(Api::start(db, settings), Worker::start(db, &ollama, settings));
    let mut job = chat_with_webhook(prompt, &receiver.url("/"));
    job["metadata"] = json!({"order": 66, "to": "grüße"});
    let id = api.submit(&job).await;
    let webhooks = received(&receiver, 4).await;
    (id, api, webhooks)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_says_what_the_api_says_of_the_same_event() {
    let db = Db::fresh().await;
    let (id, api, webhooks) =
        run(&db, "sim:echo grüße", &[("FOREMAN_PUBLIC_URL", "https://jobs.example")]).await;
    let events = api.get(&format!("/jobs/{id}/events")).await;
    let sent: Vec<Value> = webhooks.iter().map(Received::json).collect();
    assert_eq!(events["data"], Value::from(sent));
    let done = webhooks[3].json();
    assert_eq!(done["metadata"], json!({"order": 66, "to": "grüße"}));
    let data: Value = serde_json::from_str(done["artifacts"][0]["data"].as_str().unwrap()).unwrap();
    assert_eq!(data, done["result"], "the artifact and the result are one");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_goes_by_url_and_is_there_byte_for_byte() {
    let db = Db::fresh().await;
    let settings = [("FOREMAN_ARTIFACT_INLINE_LIMIT", "1KiB")];
    let (id, api, webhooks) = run(&db, "sim:bytes=20000", &settings).await;
    let done = webhooks[3].json();
    let artifact = &done["artifacts"][0];
    assert_eq!((&done["result"], artifact.get("data")), (&Value::Null, None));
    assert_eq!(artifact["url"], format!("/jobs/{id}/artifacts/completion"));
    let url = format!("{}{}", api.url, artifact["url"].as_str().unwrap());
    let bytes = http().get(url).send().await.unwrap().bytes().await.unwrap();
    assert_eq!(artifact["size"], bytes.len());
    let stored: String = db.value("SELECT encode(sha256(data), 'hex') FROM artifact").await;
    assert_eq!(artifact["sha256"], stored);
    assert_eq!(bytes, db.value::<Vec<u8>>("SELECT data FROM artifact").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_attempt_says_what_was_true_at_the_first() {
    let db = Db::fresh().await;
    let receiver =
        Receiver::answering(|_, nth| ReceiverAnswer::Status(if nth == 0 { 500 } else { 200 })).await;
    // By the time that `queued` is sent again the job has long been done.
    done_jobs_to(&db, &receiver.url("/"), 1).await;
    let _dispatcher = dispatcher(&db, &[("FOREMAN_WEBHOOK_RETRY_SCHEDULE", "100ms,100ms")]).await;
    logged(&db, 5).await;
    let webhooks = receiver.received();
    assert_eq!(webhooks[0].body, webhooks[1].body);
    assert_eq!(webhooks[0].json()["state"], "queued");
    assert_eq!(webhooks[4].json()["state"], "done");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_submitters_trace_goes_along() {
    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let (db, receiver) = (Db::fresh().await, Receiver::start().await);
    let job = NewJob { traceparent: Some(TRACE.to_owned()), ..job_to(&db, &receiver.url("/")) };
    db.accept_all(&[job]).await;
    let _dispatcher = dispatcher(&db, &[]).await;
    let webhook = &received(&receiver, 1).await[0];
    assert_eq!(webhook.header("traceparent"), TRACE);
    assert_eq!(webhook.header("content-type"), "application/json");
    assert!(webhook.header("user-agent").starts_with("foreman/"));
}
