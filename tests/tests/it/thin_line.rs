//! Lines to Postgres on which many bytes take their time: everything gets through, and nothing is begun, sent or said too
//! early on the way.

use foreman_store::{JobId, NewJob};
use foreman_tests::{Api, Db, Worker, eventually};
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
    let job = || NewJob { load_key: "tiny-a:latest".to_owned(), ..db.new_job() };
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
