//! A dispatcher that is killed with the answers of receivers in its hands, before it could write any of them.

use std::collections::BTreeMap;
use std::time::Duration;

use foreman_tests::{Db, Receiver, ReceiverAnswer, eventually};
use sqlx::{Postgres, pool::PoolConnection};

use super::{dispatcher, done_jobs_to, job_to, log, logged};

/// Makes every report wait for this lock.
const REPORTS_WAIT: &str = "
    CREATE FUNCTION wait_for_the_test() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NEW; END';
    CREATE TRIGGER wait_for_the_test BEFORE INSERT ON webhook_attempt
        FOR EACH ROW EXECUTE FUNCTION wait_for_the_test()";

/// Statements that wait for it.
const WAITING: &str = "FROM pg_locks WHERE locktype = 'advisory' AND objid = 1 AND NOT granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

/// While this is held, no report is written.
struct HeldBack<'a> {
    db: &'a Db,
    lock: PoolConnection<Postgres>,
}

impl<'a> HeldBack<'a> {
    async fn reports(db: &'a Db) -> Self {
        db.run(REPORTS_WAIT).await;
        let mut lock = db.pool.acquire().await.unwrap();
        sqlx::query("SELECT pg_advisory_lock(1)").execute(&mut *lock).await.unwrap();
        Self { db, lock }
    }

    /// Returns when a dispatcher has answers and cannot write them.
    async fn are_there(&self) {
        eventually("a report that waits", async || {
            match self.db.value::<i64>(&format!("SELECT count(*) {WAITING}")).await {
                0 => Err("none"),
                _ => Ok(()),
            }
        })
        .await;
    }

    /// Ends the statement that the dead dispatcher has left behind, so that it is never written, and lets others write.
    async fn lose(mut self) {
        eventually("the end of what waits", async || {
            self.db.run(&format!("SELECT pg_terminate_backend(pid) {WAITING}")).await;
            match self.db.value::<i64>(&format!("SELECT count(*) {WAITING}")).await {
                0 => Ok(()),
                waiting => Err(waiting),
            }
        })
        .await;
        sqlx::query("SELECT pg_advisory_unlock(1)").execute(&mut *self.lock).await.unwrap();
    }
}

/// Ends the claims of the dead dispatcher, as time would.
async fn claims_lapse(db: &Db) {
    db.run("UPDATE webhook_delivery SET claimed_until = now() WHERE claim_no IS NOT NULL").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatcher_that_dies_before_the_commit_doubles_what_was_in_flight_and_loses_nothing() {
    const RECEIVERS: usize = 8;
    const JOBS: usize = 3;
    let db = Db::fresh().await;
    let mut receivers = Vec::new();
    for _ in 0..RECEIVERS {
        let receiver = Receiver::start().await;
        done_jobs_to(&db, &receiver.url("/"), JOBS).await;
        receivers.push(receiver);
    }
    let ids_in_order = |receiver: &Receiver| -> Vec<String> {
        receiver.received().iter().map(|webhook| webhook.header("webhook-id").to_owned()).collect()
    };
    let held_back = HeldBack::reports(&db).await;
    let mut dispatcher = dispatcher(&db, &[]).await;
    // The later events of a job wait for the report of its first.
    eventually("the first event of each job", async || {
        let come: usize = receivers.iter().map(Receiver::count).sum();
        if come == RECEIVERS * JOBS { Ok(()) } else { Err(come) }
    })
    .await;
    held_back.are_there().await;
    let in_flight: Vec<String> = receivers.iter().flat_map(ids_in_order).collect();
    dispatcher.process.kill().await;
    held_back.lose().await;
    assert!(log(&db).await.is_empty(), "nothing was written");

    claims_lapse(&db).await;
    dispatcher.process.start_again();
    logged(&db, RECEIVERS * JOBS * (4 + 1)).await;
    let mut come: BTreeMap<String, usize> = BTreeMap::new();
    for receiver in &receivers {
        let mut seqs: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for id in ids_in_order(receiver) {
            *come.entry(id.clone()).or_default() += 1;
            let (job, seq) = id.split_once('_').unwrap();
            seqs.entry(job.to_owned()).or_default().push(seq.to_owned());
        }
        for mut seqs in seqs.into_values() {
            assert!(seqs.is_sorted(), "{seqs:?}");
            seqs.dedup();
            assert_eq!(seqs, ["1", "2", "3", "4"]);
        }
    }
    for (id, times) in come {
        assert_eq!(times, 1 + usize::from(in_flight.contains(&id)), "{id}");
    }
    assert_eq!(in_flight.len(), RECEIVERS * JOBS);
    let lost = log(&db).await.into_iter().filter(|entry| entry == "1 1 retry dispatcher_lost").count();
    assert_eq!(lost, in_flight.len(), "their attempts are counted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatcher_that_dies_before_the_commit_leaves_the_schedule_intact() {
    let db = Db::fresh().await;
    let receiver = Receiver::answering(|_, _| ReceiverAnswer::Status(500)).await;
    db.accept_all(&[job_to(&db, &receiver.url("/"))]).await;
    let mut dispatcher = dispatcher(&db, &[("FOREMAN_WEBHOOK_RETRY_SCHEDULE", "1h,2h,3h")]).await;
    logged(&db, 1).await;
    let held_back = HeldBack::reports(&db).await;
    db.run("UPDATE webhook_delivery SET next_attempt_at = now()").await;
    held_back.are_there().await;
    assert_eq!(receiver.count(), 2);
    dispatcher.process.kill().await;
    held_back.lose().await;

    claims_lapse(&db).await;
    dispatcher.process.start_again();
    let expected = ["1 1 retry status_5xx", "1 2 retry dispatcher_lost", "1 3 retry status_5xx"];
    assert_eq!(logged(&db, 3).await, expected);
    assert_eq!(receiver.count(), 3);
    assert_eq!(db.value::<i16>("SELECT attempts FROM webhook_delivery").await, 3);
    // The wait before attempt 4, from the end of attempt 3, with the jitter's tenth at most.
    let wait: f64 = db
        .value(
            "SELECT extract(epoch FROM d.next_attempt_at - a.at)::float8 - a.latency_ms / 1000.0::float8
             FROM webhook_delivery d JOIN webhook_attempt a ON a.delivery_id = d.id AND a.attempt = 3",
        )
        .await;
    let third = Duration::from_secs(3 * 60 * 60).as_secs_f64();
    assert!(wait > third - 0.01 && wait < third * 1.1 + 0.01, "{wait}");
}
