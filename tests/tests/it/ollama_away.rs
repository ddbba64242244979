//! An Ollama that is away is the host's trouble, and never a job's.

use chrono::TimeDelta;
use foreman_tests::{Api, Db, Worker, eventually, within};
use ollama_sim::{Config, Sim};
use serde_json::json;

use crate::chat;

const JOBS: usize = 80;

#[tokio::test(flavor = "multi_thread")]
async fn an_ollama_gone_for_longer_than_all_retries_fails_no_job_and_counts_no_attempt() {
    let db = Db::fresh().await;
    let sim = Sim::start(Config { parallel: 2, ..Config::default() }).await.unwrap();
    let api = Api::start(&db, &[]).await;
    let worker = Worker::start(&db, &sim.url(), &[("FOREMAN_WORKER_SLOTS", "2")]).await;
    let submit = async |range: std::ops::Range<usize>| {
        for nth in range {
            let mut job = chat(&format!("job {nth} sim:tokens=5 sim:token-delay=10ms"));
            // With one wait of two seconds its retries are soon over.
            job["max_attempts"] = json!(2);
            api.submit(&job).await;
        }
    };
    submit(0..JOBS / 2).await;
    sim.until(|log| log.completed >= 5 && log.running() == 2).await;
    let gone_at = db.now().await;
    sim.go_away().await;
    submit(JOBS / 2..JOBS).await;
    within(std::time::Duration::from_secs(20), "the time of all retries", async || {
        let gone_for = db.now().await - gone_at;
        if gone_for > TimeDelta::seconds(6) { Ok(()) } else { Err(gone_for) }
    })
    .await;
    eventually("leases handed back", async || {
        match db.value::<i64>("SELECT count(*) FROM job_lease").await {
            0 => Ok(()),
            held => Err(format!("{held} are held")),
        }
    })
    .await;
    let ready = http_status(&worker).await;
    assert_eq!(ready, 503, "a worker without Ollama is not ready");
    assert_eq!(db.value::<i64>("SELECT coalesce(sum(failures), 0)::bigint FROM job_ready").await, 0);
    sim.come_back().await.unwrap();
    db.every_job_ends().await;
    let unscathed = "SELECT count(*) FROM job_done WHERE state = 'done' AND failures = 0 AND rescues = 0";
    assert_eq!(db.value::<i64>(unscathed).await, i64::try_from(JOBS).unwrap());
    db.every_job_has_one_room().await;
}

async fn http_status(worker: &Worker) -> u16 {
    let answer = foreman_tests::http().get(format!("{}/readyz", worker.ops_url)).send().await;
    answer.unwrap().status().as_u16()
}
