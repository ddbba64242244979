//! Lines to Postgres on which many bytes take their time: everything gets through, and nothing is begun, sent or said too
//! early on the way.

use std::{collections::HashSet, time::Duration};

use foreman_store::{JobId, JobRequest};
use foreman_tests::{Api, Db, Receiver, Worker, eventually, http, within};
use ollama_sim::{Config, Sim};
use serde_json::Value;

use crate::chat;

/// A chat job of about so many bytes.
fn large_chat(prompt: &str, bytes: usize) -> Value {
    let mut job = chat(prompt);
    job["options"] = serde_json::json!({"stop": ["s".repeat(bytes)]});
    job
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_reaches_ollama_and_its_job_waits_until_it_is_here() {
    let db = Db::fresh().await;
    let sim = Sim::start(Config::default()).await.unwrap();
    let api = Api::start(&db, &[]).await;
    let line = db.line().await;
    let worker = Worker::start(&db, &sim.url(), &[("DATABASE_URL", &line.url(db.url()))]).await;
    // Three seconds' worth, while what a claim has for its answer is a second.
    line.throttle(300 << 10);
    let id = api.submit(&large_chat("sim:tokens=1", 900 << 10)).await;
    db.every_job_ends().await;
    assert_eq!(db.history(id.parse().unwrap()).await, ["queued", "loading", "working", "done"]);
    let ended = "SELECT format('%s %s %s %s', state, attempt, failures, rescues) FROM job_done";
    assert_eq!(db.value::<String>(ended).await, "done 1 0 0");
    let held: bool = db.value("SELECT loading_at - eligible_at > interval '1 s' FROM job_done").await;
    assert!(held, "it was shown as begun while its body was on its way");
    assert_eq!(worker.metric("foreman_stale_writes_total").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_result_does_not_wait_behind_a_large_one() {
    let db = Db::fresh().await;
    let sim = Sim::start(Config::default()).await.unwrap();
    let api = Api::start(&db, &[]).await;
    let line = db.line().await;
    let _worker = Worker::start(&db, &sim.url(), &[("DATABASE_URL", &line.url(db.url()))]).await;
    line.throttle(300 << 10);
    // With its one slot the worker has the first result in its hands before the second job runs.
    let large = api.submit(&chat(&format!("sim:bytes={}", 1_300 << 10))).await;
    let small = api.submit(&chat("sim:tokens=1")).await;
    db.every_job_ends().await;
    let by_end: Vec<String> = db.values("SELECT job_id::text FROM job_done ORDER BY completed_at").await;
    let id = |job: &str| job.parse::<JobId>().unwrap().uuid().to_string();
    assert_eq!(by_end, [id(&small), id(&large)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_drops_a_lease_whose_request_is_gone_and_goes_on() {
    let db = Db::fresh().await;
    let sim = Sim::start(Config::default()).await.unwrap();
    let job = || db.job(JobRequest { load_key: "tiny-a:latest".to_owned(), ..db.request() });
    let jobs = db.accept_all(&[job(), job()]).await;
    db.run(&format!("DELETE FROM job WHERE id = '{}'", jobs[0].uuid())).await;
    let worker = Worker::start(&db, &sim.url(), &[]).await;
    let waiting = "SELECT job_id FROM job_lease UNION ALL SELECT job_id FROM job_ready";
    eventually("nothing that waits or runs", async || match db.values::<JobId>(waiting).await {
        left if left.is_empty() => Ok(()),
        left => Err(format!("{left:?}")),
    })
    .await;
    assert_eq!(db.values::<JobId>("SELECT job_id FROM job_done").await, jobs[1..]);
    let told = worker.process.log();
    assert!(told.contains("a lease was dropped") && told.contains(&jobs[0].to_string()), "{told}");
}

/// As in the worst week: 16 Mbit/s for all that one api and one worker say to Postgres and hear from it.
///
/// `cargo test --release -p foreman-tests --test it -- --ignored everything_gets_over --nocapture`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes six minutes: bytes at their full size"]
async fn everything_gets_over_16_mbit_per_second_and_nothing_is_said_twice() {
    const LARGE: usize = 10;
    const INLINE: usize = 320;
    let db = Db::fresh().await;
    let sim = Sim::start(Config::default()).await.unwrap();
    let receiver = Receiver::start().await;
    let line = db.line().await;
    let url = line.url(db.url());
    let worker = Worker::start(
        &db,
        &sim.url(),
        &[
            ("DATABASE_URL", &url),
            ("FOREMAN_WORKER_SLOTS", "4"),
            ("FOREMAN_LEASE_TTL", "20s"),
            ("FOREMAN_ARTIFACT_INLINE_LIMIT", "1MiB"),
        ],
    )
    .await;
    let api = Api::start(&db, &[("DATABASE_URL", &url)]).await;
    line.throttle(2_000_000);
    for _ in 0..2 {
        api.submit(&large_chat("sim:tokens=1", 28 << 20)).await;
    }
    for _ in 0..LARGE {
        api.submit(&chat(&format!("sim:bytes={}", 24 << 20))).await;
    }
    for _ in 0..INLINE {
        let mut job = chat(&format!("sim:bytes={}", 300_000));
        job["state_webhook_url"] = receiver.url("/").into();
        job["webhook_events"] = serde_json::json!(["done"]);
        api.submit(&job).await;
    }
    let (mut not_ready, jobs) = (Vec::new(), 2 + LARGE + INLINE);
    within(Duration::from_secs(900), "the end of every job and webhook", async || {
        for ops in [&api.ops_url, &worker.ops_url] {
            let ready = http().get(format!("{ops}/readyz")).send().await.unwrap();
            if !ready.status().is_success() {
                not_ready.push(ready.text().await.unwrap());
            }
        }
        let done: i64 = db.value("SELECT count(*) FROM job_done WHERE state = 'done'").await;
        match (usize::try_from(done).unwrap(), receiver.count()) {
            (done, INLINE) if done == jobs => Ok(()),
            left => Err(format!("{left:?} jobs and webhooks")),
        }
    })
    .await;
    assert_eq!(not_ready, [""; 0], "both were ready throughout");
    let odd = "SELECT count(*) FROM job_done WHERE (attempt, failures, rescues) <> (1, 0, 0)";
    assert_eq!(db.value::<i64>(odd).await, 0, "each job ran once");
    for counted in ["foreman_stale_writes_total", "foreman_lease_rescues_total"] {
        assert_eq!(worker.metric(counted).await, 0.0, "{counted}");
    }
    let bodies: HashSet<String> =
        receiver.received().iter().map(|webhook| webhook.header("webhook-id").to_owned()).collect();
    assert_eq!(bodies.len(), INLINE, "each webhook came once");
}
