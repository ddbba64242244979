//! Through PgBouncer in transaction mode: another server for every transaction, and nothing comes out different.

pub(crate) mod pgbouncer;

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use foreman_store::JobId;
use foreman_tests::{Api, Db, Receiver, Worker, eventually, http, within};
use futures_util::{StreamExt, stream};
use ollama_sim::{Config, Sim};
use serde_json::{Value, json};

use crate::{chat, chat_with_webhook};
use pgbouncer::{PgBouncer, SERVERS};

/// The connections of api and worker past the pooler: each listens on one and notifies on another.
const DIRECT: i64 = 4;

/// An api and a worker that know Postgres only through the pooler, but for what must go past it.
async fn behind(pooler: &PgBouncer, db: &Db, sim: &Sim, slots: &str) -> (Api, Worker) {
    let url = pooler.url(db);
    let ours = [
        ("DATABASE_URL", url.as_str()),
        ("DATABASE_DIRECT_URL", db.url()),
        ("FOREMAN_PGBOUNCER", "yes"),
        ("FOREMAN_WORKER_SLOTS", slots),
    ];
    let ollama = sim.url();
    tokio::join!(Api::start(db, &ours[..3]), Worker::start(db, &ollama, &ours))
}

async fn state(api: &Api, job: &str) -> Value {
    api.get(&format!("/jobs/{job}")).await["state"].clone()
}

async fn until_state(api: &Api, job: &str, wanted: &str) {
    eventually("a job's state", async || {
        let state = state(api, job).await;
        if state == wanted { Ok(()) } else { Err(format!("{state}, not {wanted}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_done_retried_cancelled_expired_and_its_receiver_hears_of_it() {
    let db = Db::fresh().await;
    let (pooler, receiver) = (PgBouncer::start(&db), Receiver::start().await);
    let sim = Sim::start(Config::default()).await.unwrap();
    let (api, worker) = behind(&pooler, &db, &sim, "1").await;

    let done = api.submit(&chat_with_webhook("hello", &receiver.url("/done"))).await;
    until_state(&api, &done, "done").await;
    let failed = api.submit(&chat("sim:fault=error=400")).await;
    until_state(&api, &failed, "failed").await;
    let retried = http().post(format!("{}/jobs/{done}/retry", api.url)).send().await.unwrap();
    assert_eq!(retried.status(), 202);
    let retry: Value = serde_json::from_slice(&retried.bytes().await.unwrap()).unwrap();
    let retry = retry["job_id"].clone();
    db.every_job_ends().await;

    let hangs = api.submit(&chat_with_webhook("sim:fault=hang@1", &receiver.url("/cancelled"))).await;
    until_state(&api, &hangs, "working").await;
    let waits = api.submit(&chat("never begun")).await;
    let mut late = chat("too late");
    late["expires_at"] = json!(db.now().await + Duration::from_secs(1));
    let late = api.submit(&late).await;
    until_state(&api, &late, "expired").await;
    for job in [&waits, &hangs] {
        let answer = http().post(format!("{}/jobs/{job}/cancel", api.url)).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        until_state(&api, job, "cancelled").await;
    }

    eventually("the webhooks of three jobs", async || match receiver.count() {
        12 => Ok(()),
        count => Err(count),
    })
    .await;
    // Each job's events come in order. Two jobs that share a receiver are told of independently.
    let states = |path: &str, job: &Value| -> Vec<Value> {
        let received = receiver.received();
        received
            .iter()
            .filter(|event| event.path == path && event.json()["job_id"] == *job)
            .map(|event| event.json()["state"].clone())
            .collect()
    };
    // The retry has its original's receiver.
    for job in [&json!(done), &retry] {
        assert_eq!(states("/done", job), ["queued", "loading", "working", "done"]);
    }
    assert_eq!(states("/cancelled", &json!(hangs)), ["queued", "loading", "working", "cancelled"]);
    let deliveries = api.get(&format!("/jobs/{done}/deliveries")).await;
    assert_eq!(deliveries["data"].as_array().unwrap().len(), 4);
    assert_eq!(worker.metric(r#"foreman_background_errors_total{task="relay"}"#).await, 0.0);
    db.every_job_has_one_room().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_jobs_at_once_are_each_done_once_and_told_of_in_order() {
    const JOBS: usize = 1_000;
    let db = Db::fresh().await;
    let (pooler, receiver) = (PgBouncer::start(&db), Receiver::start().await);
    let sim = Sim::start(Config { parallel: 16, ..Config::default() }).await.unwrap();
    let (api, worker) = behind(&pooler, &db, &sim, "16").await;
    let hook = receiver.url("/");
    let submitted: HashSet<String> = stream::iter(0..JOBS)
        .map(|number| {
            let job = chat_with_webhook(&format!("{number} sim:echo sim:tokens=3"), &hook);
            let api = &api;
            async move { api.submit(&job).await }
        })
        .buffer_unordered(64)
        .collect()
        .await;
    assert_eq!(submitted.len(), JOBS);
    db.every_job_ends().await;
    // Sixteen clients each, and they had to make do with a few servers.
    let connected = "SELECT count(*) FROM pg_stat_activity
                     WHERE datname = current_database() AND application_name = 'foreman' AND backend_type = 'client backend'";
    let connected: i64 = db.value(connected).await;
    assert!(connected <= SERVERS + DIRECT, "{connected} connections");
    within(Duration::from_secs(120), "the delivery of every webhook", async || match receiver.count() {
        count if count == 4 * JOBS => Ok(()),
        count => Err(count),
    })
    .await;

    db.every_job_has_one_room().await;
    assert_eq!(sim.log().runs().len(), JOBS, "each was run once");
    let done: Vec<JobId> =
        db.values("SELECT job_id FROM job_done WHERE state = 'done' AND attempt = 1").await;
    assert_eq!(done.iter().map(JobId::to_string).collect::<HashSet<_>>(), submitted);
    let mut heard: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for event in receiver.received() {
        let event = event.json();
        let text = |field: &str| event[field].as_str().unwrap().to_owned();
        heard.entry(text("job_id")).or_default().push(text("state"));
    }
    for job in done {
        assert_eq!(db.history(job).await, ["queued", "loading", "working", "done"], "{job}");
        assert_eq!(heard[&job.to_string()], ["queued", "loading", "working", "done"], "{job}");
    }
    // Nothing went wrong on the way that was mended by trying again.
    for log in [api.process.log(), worker.process.log()] {
        let trouble: Vec<&str> = log.lines().filter(|line| !line.contains(r#""level":"INFO""#)).collect();
        assert!(trouble.is_empty(), "{trouble:#?}");
    }
}
