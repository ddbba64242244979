//! The janitor and the gauges, as processes.

use chrono::{TimeDelta, Utc};
use foreman_store::{EndpointId, NewJob, Scope};
use foreman_tests::{Db, Worker, eventually};

use super::gates::{FAILED, change, endpoint, hold_ends, opened, settle_all};
use super::{RETRY, claim, dispatcher, relay};

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

/// Lanes that are open, and deliveries that are due.
async fn backlog(db: &Db) -> (i64, i64) {
    let backlog = db.store.delivery_backlog().await.unwrap();
    (backlog.lanes_open, backlog.due)
}

#[tokio::test]
async fn a_lane_counts_as_open_while_something_waits_there() {
    let db = opened(12).await;
    assert_eq!(backlog(&db).await, (1, 0), "held back");
    hold_ends(&db).await;
    let (open, due) = backlog(&db).await;
    assert!(open == 1 && due > 0, "{open} {due}");
    db.run("DELETE FROM webhook_delivery").await;
    assert_eq!(backlog(&db).await, (0, 0));
}

#[tokio::test]
async fn whoever_disables_or_deletes_an_endpoint_that_is_away_hears_no_more_of_it() {
    let open = async || {
        let db = Db::fresh().await;
        let id = endpoint(&db, None).await;
        db.accept(12).await;
        relay(&db.store).await;
        let failing = claim(&db.store).await.to_send;
        settle_all(&db.store, failing, RETRY, FAILED).await;
        assert_eq!(backlog(&db).await.0, 1);
        (db, id)
    };
    let (db, id) = open().await;
    change(&db, id, |settings| settings.is_disabled = true).await;
    db.run("UPDATE webhook_lane SET not_before = NULL").await;
    db.run("UPDATE webhook_delivery SET next_attempt_at = now()").await;
    assert_eq!(backlog(&db).await, (0, 0));
    let (db, id): (Db, EndpointId) = open().await;
    assert!(db.store.delete_endpoint(Scope::Everyone, id).await.unwrap());
    assert_eq!(backlog(&db).await.0, 0);
}

#[tokio::test]
async fn what_waits_for_the_rate_limit_of_its_endpoint_is_due_only_if_nobody_sends() {
    let db = Db::fresh().await;
    endpoint(&db, Some(1)).await;
    db.accept(5).await;
    relay(&db.store).await;
    assert_eq!(backlog(&db).await, (0, 5), "nobody has sent any");
    assert_eq!(claim(&db.store).await.to_send.len(), 1);
    assert_eq!(backlog(&db).await, (0, 0), "the other four wait for slots");
    db.run("UPDATE webhook_lane SET next_slot_at = now() - interval '1 minute'").await;
    assert_eq!(backlog(&db).await, (0, 4), "slots were free for a minute");
}
