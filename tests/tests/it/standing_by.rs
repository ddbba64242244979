//! Several workers and apis on one database and one Ollama: one worker speaks for the host, another takes over.

use chrono::{DateTime, TimeDelta, Utc};
use foreman_tests::{Api, Db, Process, Worker, eventually, free_port, http};
use ollama_sim::{Config, Sim};
use serde_json::Value;

use crate::chat;

const SLOTS: &str = "2";

/// Two apis and two workers with this TTL; the first worker holds the host.
async fn two_of_each(db: &Db, sim: &Sim, ttl: &str) -> ([Api; 2], [Worker; 2]) {
    let settings = [("FOREMAN_WORKER_SLOTS", SLOTS), ("FOREMAN_LEASE_TTL", ttl)];
    let apis = tokio::join!(Api::start(db, &[]), Api::start(db, &[]));
    let first = Worker::start(db, &sim.url(), &settings).await;
    holder_since(db, "0").await;
    let second = Worker::start(db, &sim.url(), &settings).await;
    (apis.into(), [first, second])
}

/// When a holder with a later fence number than this took the host.
async fn holder_since(db: &Db, fence: &str) -> DateTime<Utc> {
    let taken = format!("SELECT renewed_at FROM host WHERE holder IS NOT NULL AND fence > {fence}");
    eventually("a new holder of the host", async || db.values(&taken).await.pop().ok_or("nobody has it"))
        .await
}

async fn submit(apis: &[Api; 2], count: usize, prompt: &str) {
    for nth in 0..count {
        apis[nth % 2].submit(&chat(&format!("job {nth} {prompt}"))).await;
    }
}

/// No body was open twice at once, none ran to its end twice, and the host's slots were kept.
fn ran_once_each(sim: &Sim, jobs: usize) {
    let log = sim.log();
    assert!(log.max_in_flight <= 2, "{} requests at once on two slots", log.max_in_flight);
    assert!(log.twins.is_empty(), "{:?}", log.twins);
    let completions = log.completions();
    assert_eq!(completions.len(), jobs);
    assert!(completions.values().all(|&count| count == 1), "{completions:?}");
}

async fn all_are_done_at_the_first_attempt(db: &Db, jobs: usize) {
    db.every_job_ends().await;
    db.every_job_has_one_room().await;
    let first = "SELECT count(*) FROM job_done WHERE state = 'done' AND failures = 0 AND rescues = 0";
    assert_eq!(db.value::<i64>(first).await, i64::try_from(jobs).unwrap());
}

fn config() -> Config {
    Config { parallel: 2, ..Config::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_and_two_apis_never_run_a_job_twice_nor_more_than_the_slots() {
    let db = Db::fresh().await;
    let sim = Sim::start(config()).await.unwrap();
    let (apis, _workers) = two_of_each(&db, &sim, "10s").await;
    submit(&apis, 300, "sim:tokens=2 sim:token-delay=2ms").await;
    all_are_done_at_the_first_attempt(&db, 300).await;
    ran_once_each(&sim, 300);
    assert_eq!(db.value::<i64>("SELECT fence FROM host").await, 1, "the host has not changed hands");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_over_at_once_when_the_holder_is_told_to_stop() {
    let db = Db::fresh().await;
    let sim = Sim::start(config()).await.unwrap();
    let (apis, [mut holder, _standby]) = two_of_each(&db, &sim, "20s").await;
    submit(&apis, 60, "sim:tokens=10 sim:token-delay=20ms").await;
    sim.until(|log| log.completed >= 5).await;
    let told_at = db.now().await;
    holder.process.terminate().await;
    let taken_at = holder_since(&db, "1").await;
    // A quarter of the TTL is far less than the lease would have lasted by itself.
    assert!(taken_at - told_at < TimeDelta::seconds(5), "taken over after {}", taken_at - told_at);
    all_are_done_at_the_first_attempt(&db, 60).await;
    ran_once_each(&sim, 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_over_in_time_when_the_holder_is_killed() {
    let db = Db::fresh().await;
    let sim = Sim::start(config()).await.unwrap();
    let (apis, [mut holder, _standby]) = two_of_each(&db, &sim, "4s").await;
    submit(&apis, 60, "sim:tokens=10 sim:token-delay=20ms").await;
    sim.until(|log| log.completed >= 5).await;
    let killed_at = db.now().await;
    holder.process.kill().await;
    let taken_at = holder_since(&db, "1").await;
    assert!(taken_at - killed_at <= TimeDelta::seconds(5), "taken over after {}", taken_at - killed_at);
    db.every_job_ends().await;
    db.every_job_has_one_room().await;
    let ended = "SELECT count(*) FROM job_done WHERE state = 'done' AND failures = 0 AND rescues <= 1";
    assert_eq!(db.value::<i64>(ended).await, 60);
    assert!(sim.log().max_in_flight <= 2);
}

/// Everything else is well here: what the worker says it waits for is the models alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_ready_once_the_models_of_its_host_are_known_whoever_listed_them() {
    let db = Db::fresh().await;
    let sim = Sim::start(config()).await.unwrap();
    let api = Api::start(&db, &[]).await;
    let mut kept_from_listing = db.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE host_model").execute(&mut *kept_from_listing).await.unwrap();
    let (url, ops) = (sim.url(), format!("127.0.0.1:{}", free_port()));
    let settings = [
        ("DATABASE_URL", db.url()),
        ("OLLAMA_HOST", &url),
        ("FOREMAN_WORKER_OPS_ADDR", &ops),
        ("FOREMAN_WORKER_STREAM_ADDR", "127.0.0.1:0"),
    ];
    let process = Process::start("foreman-worker", &[], &settings);
    let worker = Worker { process, ops_url: format!("http://{ops}") };
    eventually("a worker that waits for its models alone", async || {
        let answer = http().get(format!("{}/readyz", worker.ops_url)).send().await;
        let text = answer.map_err(|error| error.to_string())?.text().await.unwrap_or_default();
        let answer: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let failing = answer["failing"].as_array().unwrap();
        if failing.len() == 1 && failing[0]["check"] == "models" { Ok(()) } else { Err(text) }
    })
    .await;
    kept_from_listing.rollback().await.unwrap();
    worker.ready().await;
    api.submit(&chat("the first after a start")).await;
    let _standby = Worker::start(&db, &url, &[]).await;
    db.every_job_ends().await;
}
