//! The janitor and the gauges, as processes.

use chrono::{TimeDelta, Utc};
use foreman_store::NewJob;
use foreman_tests::{Db, Worker, eventually};

use super::dispatcher;

#[tokio::test(flavor = "multi_thread")]
async fn a_chore_that_fails_does_not_stop_the_others() {
    let db = Db::fresh().await;
    let job = NewJob { expires_at: Utc::now() + TimeDelta::milliseconds(10), ..db.new_job() };
    let job = db.accept_all(&[job]).await[0];
    db.run("ALTER TABLE idempotency_key RENAME TO mislaid").await;
    let worker = dispatcher(&db, &[]).await;
    eventually("the end of a job whose time has passed", async || {
        let room = db.room(job).await;
        if room == "expired" { Ok(()) } else { Err(room) }
    })
    .await;
    eventually("the failure of a chore", async || {
        match worker.metric(r#"foreman_background_errors_total{task="prune-idempotency-keys"}"#).await {
            0.0 => Err("none"),
            _ => Ok(()),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_waits_for_its_time_is_ready_when_it_comes() {
    let db = Db::fresh().await;
    let jobs: Vec<NewJob> = [1, 3_600]
        .into_iter()
        .map(|seconds| NewJob { run_at: Some(Utc::now() + TimeDelta::seconds(seconds)), ..db.new_job() })
        .collect();
    let jobs = db.accept_all(&jobs).await;
    let _worker = dispatcher(&db, &[]).await;
    eventually("a job that is ready", async || {
        let room = db.room(jobs[0]).await;
        if room == "ready" { Ok(()) } else { Err(room) }
    })
    .await;
    assert_eq!(db.room(jobs[1]).await, "scheduled");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_worker_alone_exports_the_gauges_of_the_database() {
    const QUEUED: &str = r#"foreman_jobs_queued{model="tiny-a"}"#;
    let db = Db::fresh().await;
    db.accept(3).await;
    let mut workers = [dispatcher(&db, &[]).await, dispatcher(&db, &[]).await];
    let exports = async |worker: &Worker| worker.metric(QUEUED).await == 3.0;
    let one = async |workers: &[Worker]| {
        eventually("one that exports", async || {
            let mut who = Vec::new();
            for (number, worker) in workers.iter().enumerate() {
                if exports(worker).await {
                    who.push(number);
                }
            }
            if let [one] = who[..] { Ok(one) } else { Err(format!("{who:?} export")) }
        })
        .await
    };
    let exporter = one(&workers).await;
    assert_eq!(workers[exporter].metric("foreman_deliveries_due").await, 0.0);
    assert!(workers[exporter].metric("foreman_partition_days_ahead").await >= 13.0);
    workers[exporter].process.terminate().await;
    assert_eq!(one(std::slice::from_ref(&workers[1 - exporter])).await, 0);
}
