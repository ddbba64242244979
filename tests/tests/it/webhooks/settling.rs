//! What became of an attempt is written once, under the number of its claim, and decides when the next one is.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use foreman_store::{
    DeliveryOutcome, DeliveryReport, Exit, LaneHealth, LaneNews, Redelivery, ReportSettled, Scope,
};
use foreman_tests::{Db, Receiver, reason, within};
use foreman_webhook::schedule::MAX_DELIVERY_AGE;

use super::{
    RETRY, URL, claim, claim_one, dispatcher, done_jobs_to, job_to, log, look, relay, report, settle,
};

/// Seconds until each delivery may be claimed, by the order of events.
const WAITS: &str =
    "SELECT extract(epoch FROM next_attempt_at - now())::float8 FROM webhook_delivery ORDER BY job_id, seq";

/// A report takes a while to be written: the dispatcher looks for more before that, when the seat is free, and in vain.
const SLOW_DISK: &str = "
    CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_sleep(0.03); RETURN NULL; END';
    CREATE TRIGGER slow BEFORE INSERT ON webhook_attempt FOR EACH STATEMENT EXECUTE FUNCTION slow()";

#[tokio::test]
async fn a_wait_runs_from_the_end_of_the_attempt_however_late_that_is_written() {
    let db = Db::fresh().await;
    done_jobs_to(&db, URL, 1).await;
    relay(&db.store).await;
    let delivery = claim_one(&db.store).await;
    let ended = Instant::now().checked_sub(Duration::from_secs(20)).unwrap();
    let late = DeliveryReport { started: ended, ended, ..report(delivery, RETRY) };
    db.store.settle_deliveries(&[late]).await.unwrap();
    let wait = db.values::<f64>(WAITS).await[0];
    assert!((0.0..=40.0).contains(&wait), "{wait}");
}

#[tokio::test]
async fn what_is_given_back_is_due_now_and_never_in_the_past_however_late_that_is_written() {
    let db = Db::fresh().await;
    done_jobs_to(&db, URL, 1).await;
    relay(&db.store).await;
    let given_back = Instant::now().checked_sub(Duration::from_secs(20)).unwrap();
    let release = DeliveryOutcome::Release { wait: Duration::ZERO };
    let late = report(claim_one(&db.store).await, release);
    // A dispatcher claims from where it knows the lane to begin, two seconds behind its last look.
    let last_look = db.now().await;
    let late = DeliveryReport { started: given_back, ended: given_back, ..late };
    db.store.settle_deliveries(&[late]).await.unwrap();
    let first: DateTime<Utc> =
        db.value("SELECT next_attempt_at FROM webhook_delivery WHERE attempts = 0 AND seq = 1").await;
    assert!((last_look..=db.now().await).contains(&first), "{first} lies before {last_look}");
}

#[tokio::test]
async fn a_report_whose_commit_was_lost_is_recognised_and_not_repeated() {
    let db = Db::fresh().await;
    done_jobs_to(&db, URL, 3).await;
    relay(&db.store).await;
    let verdicts = [DeliveryOutcome::Delivered, RETRY, DeliveryOutcome::Failed { code: "status_4xx" }];
    let reports: Vec<DeliveryReport> = claim(&db.store)
        .await
        .to_send
        .into_iter()
        .zip(verdicts)
        .map(|(one, outcome)| report(one, outcome))
        .collect();
    assert_eq!(db.store.settle_deliveries(&reports).await.unwrap(), [ReportSettled::Written; 3]);
    let lane = "SELECT failures || ' ' || coalesce(healthy::text, 'unknown') FROM webhook_lane";
    let (written, standing) = (log(&db).await, db.value::<String>(lane).await);
    for _ in 0..3 {
        assert_eq!(db.store.settle_deliveries(&reports).await.unwrap(), [ReportSettled::Already; 3]);
    }
    assert_eq!(log(&db).await, written);
    assert_eq!((standing.as_str(), db.value::<String>(lane).await.as_str()), ("2 true", "2 true"));
}

#[tokio::test]
async fn stale_reports_fall_out_one_by_one_and_the_rest_commits() {
    let db = Db::fresh().await;
    done_jobs_to(&db, URL, 2).await;
    relay(&db.store).await;
    let mut claimed = claim(&db.store).await.to_send;
    let (fresh, stale) = (claimed.remove(0), claimed.remove(0));
    let id = stale.claim.id.uuid();
    db.run(&format!("UPDATE webhook_delivery SET claim_no = nextval('delivery_claim_no') WHERE id = '{id}'"))
        .await;
    let reports = [report(stale, DeliveryOutcome::Delivered), report(fresh, DeliveryOutcome::Delivered)];
    let settled = db.store.settle_deliveries(&reports).await.unwrap();
    assert_eq!(settled, [ReportSettled::Stale, ReportSettled::Written]);
    assert_eq!(log(&db).await, ["1 1 delivered"]);
}

#[tokio::test]
async fn what_follows_a_failed_event_waits_with_it_and_comes_back_when_that_has_ended() {
    let db = Db::fresh().await;
    let job = done_jobs_to(&db, URL, 1).await[0];
    relay(&db.store).await;
    let first = claim_one(&db.store).await;
    let id = first.claim.id;
    settle(&db.store, first, RETRY).await;
    let waits: Vec<f64> = db.values(WAITS).await;
    assert!(waits.len() == 4 && waits.iter().all(|wait| *wait > 0.0 && *wait == waits[0]), "{waits:?}");

    // Somebody has mended the receiver and asks for the first one now.
    assert_eq!(db.store.redeliver(Scope::Everyone, id).await.unwrap(), Redelivery::Due(id));
    let first = claim_one(&db.store).await;
    settle(&db.store, first, DeliveryOutcome::Delivered).await;
    assert_eq!(claim_one(&db.store).await.event.seq, 2, "{job} goes on at once");
}

#[tokio::test]
async fn what_was_not_sent_for_a_reason_of_ours_is_not_counted() {
    let db = Db::fresh().await;
    done_jobs_to(&db, URL, 1).await;
    relay(&db.store).await;
    let delivery = claim_one(&db.store).await;
    settle(&db.store, delivery, DeliveryOutcome::Release { wait: Duration::ZERO }).await;
    assert!(log(&db).await.is_empty());
    assert_eq!(claim_one(&db.store).await.attempt, 1);
}

#[tokio::test]
async fn a_lane_fails_after_three_failures_in_a_row_and_is_proven_by_one_success() {
    let db = Db::fresh().await;
    done_jobs_to(&db, URL, 1).await;
    relay(&db.store).await;
    for (outcome, health) in [
        (RETRY, LaneHealth::NeverTried),
        (RETRY, LaneHealth::NeverTried),
        (RETRY, LaneHealth::Failing),
        (DeliveryOutcome::Delivered, LaneHealth::Proven),
        (RETRY, LaneHealth::Proven),
        (DeliveryOutcome::Delivered, LaneHealth::Proven),
    ] {
        db.run("UPDATE webhook_delivery SET next_attempt_at = now()").await;
        let delivery = claim_one(&db.store).await;
        settle(&db.store, delivery, outcome).await;
        assert_eq!(look(&db.store).await.heads[0].health, health);
    }
}

#[tokio::test]
async fn a_success_whose_answer_has_no_end_is_one_and_proves_nothing() {
    let db = Db::fresh().await;
    done_jobs_to(&db, URL, 2).await;
    relay(&db.store).await;
    for (news, health) in [
        (LaneNews::SucceededWithoutEnd, LaneHealth::NeverTried),
        (LaneNews::Succeeded, LaneHealth::Proven),
        (LaneNews::SucceededWithoutEnd, LaneHealth::NeverTried),
    ] {
        let delivery = claim(&db.store).await.to_send.remove(0);
        let report = DeliveryReport { news, ..report(delivery, DeliveryOutcome::Delivered) };
        assert_eq!(db.store.settle_deliveries(&[report]).await.unwrap(), [ReportSettled::Written]);
        db.run("UPDATE webhook_delivery SET claim_no = NULL, claimed_at = NULL, claimed_until = NULL").await;
        assert_eq!(look(&db.store).await.heads[0].health, health);
    }
    assert_eq!(log(&db).await.len(), 3);
}

#[tokio::test]
async fn a_delivery_older_than_six_days_ends_with_a_last_row_that_says_so() {
    let db = Db::fresh().await;
    done_jobs_to(&db, URL, 1).await;
    relay(&db.store).await;
    let delivery = claim_one(&db.store).await;
    settle(&db.store, delivery, RETRY).await;
    // Ids carry the time at which deliveries were made.
    let made = async |ago: Duration, which: &str| {
        let seconds = ago.as_secs();
        db.run(&format!(
            "UPDATE webhook_delivery
             SET id = (left(replace(ulid_floor(now() - interval '{seconds} s')::text, '-', ''), 12)
                       || right(replace(id::text, '-', ''), 20))::uuid
             WHERE {which}"
        ))
        .await;
    };
    // The schedule gives up at the same age as the statement that ends old deliveries.
    let minute = Duration::from_secs(60);
    made(MAX_DELIVERY_AGE - minute, "seq = 3").await;
    made(MAX_DELIVERY_AGE + minute, "seq < 3").await;
    let (ended, _) = db.store.end_old_deliveries(DateTime::UNIX_EPOCH, 100).await.unwrap();
    assert_eq!(ended.len(), 2);
    assert_eq!(log(&db).await, ["1 1 retry status_5xx", "1 2 failed too_old", "2 1 failed too_old"]);
    db.run("UPDATE webhook_delivery SET next_attempt_at = now()").await;
    assert_eq!(claim_one(&db.store).await.event.seq, 3);
}

/// Nothing but its own reports wakes this dispatcher. Were each next event left to its poll, of at least 375 ms, all of
/// them would take twice as long as they may.
#[tokio::test(flavor = "multi_thread")]
async fn the_events_of_a_job_follow_each_other_without_a_poll() {
    const ATTEMPTS: usize = 20;
    let (db, receiver) = (Db::fresh().await, Receiver::start().await);
    db.accept_all(&[job_to(&db, &receiver.url("/"))]).await;
    let holder = db.holder().await;
    for _ in 0..ATTEMPTS {
        let lease = db.start(&holder).await;
        db.settle(&[(lease, Exit::HandBack { reason: reason() })]).await.unwrap();
    }
    relay(&db.store).await;
    db.run(SLOW_DISK).await;
    let events = 1 + 3 * ATTEMPTS;
    let _dispatcher = dispatcher(&db, &[("FOREMAN_WORKER_ROLES", "dispatch")]).await;
    within(Duration::from_secs(12), "the webhooks of all events", async || match receiver.count() {
        come if come == events => Ok(()),
        come => Err(format!("{come} of {events} have come")),
    })
    .await;
}
