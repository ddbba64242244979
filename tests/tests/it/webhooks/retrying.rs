//! When a webhook is tried again: by the schedule, by what the receiver asks for, and whatever happens to the sender.

use std::time::Duration;

use foreman_tests::{Db, Receiver, ReceiverAnswer, eventually};

use super::{dispatcher, done_jobs_to, job_to, log, logged};

/// Seconds from the end of each attempt to the beginning of the next one.
const PAUSES: &str =
    "SELECT extract(epoch FROM lead(at) OVER ordered - at)::float8 - latency_ms / 1000.0::float8
                      FROM webhook_attempt WINDOW ordered AS (ORDER BY attempt) ORDER BY attempt LIMIT 3";

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_fails_gets_its_retries_and_the_order_holds() {
    let db = Db::fresh().await;
    let receiver =
        Receiver::answering(|_, nth| ReceiverAnswer::Status(if nth % 3 == 2 { 200 } else { 500 })).await;
    let job = done_jobs_to(&db, &receiver.url("/"), 1).await[0];
    let _dispatcher = dispatcher(&db, &[("FOREMAN_WEBHOOK_RETRY_SCHEDULE", "100ms,100ms,100ms")]).await;
    logged(&db, 12).await;
    let expected: Vec<String> = (1..=4)
        .flat_map(|seq| {
            [
                format!("{seq} 1 retry status_5xx"),
                format!("{seq} 2 retry status_5xx"),
                format!("{seq} 3 delivered"),
            ]
        })
        .collect();
    assert_eq!(log(&db).await, expected);
    let ids: Vec<String> =
        receiver.received().iter().map(|webhook| webhook.header("webhook-id").to_owned()).collect();
    let expected: Vec<String> = (1..=4).flat_map(|seq| vec![format!("{job}_{seq}"); 3]).collect();
    assert_eq!(ids, expected);
    db.every_job_has_one_room().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_attempts_come_at_their_times_though_the_sender_is_killed_between_them() {
    let db = Db::fresh().await;
    let receiver = Receiver::answering(|_, _| ReceiverAnswer::Status(500)).await;
    db.accept_all(&[job_to(&db, &receiver.url("/"))]).await;
    let mut dispatcher = dispatcher(&db, &[("FOREMAN_WEBHOOK_RETRY_SCHEDULE", "2s,4s,8s")]).await;
    logged(&db, 1).await;
    for attempts in [2, 3] {
        logged(&db, attempts).await;
        dispatcher.process.kill().await;
        dispatcher.process.start_again();
    }
    assert_eq!(logged(&db, 4).await.last().unwrap(), "1 4 failed status_5xx");
    // By the times in the database. Later than the jitter's tenth only by what it takes to start a process.
    let pauses: Vec<f64> = db.values(PAUSES).await;
    for (pause, wait) in pauses.iter().zip([2.0, 4.0, 8.0]) {
        assert!(*pause > wait - 0.01 && *pause < wait * 1.1 + 2.0, "{pauses:?}");
    }
    assert_eq!(receiver.count(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_asks_for_peace_gets_it_in_full() {
    let db = Db::fresh().await;
    for (status, header, seconds) in [(503, "3600", 3_600.0), (429, "99999999", 86_400.0), (500, "3600", 5.0)]
    {
        db.run("DELETE FROM webhook_delivery").await;
        let receiver =
            Receiver::answering(move |_, _| ReceiverAnswer::With(status, "retry-after", header.to_owned()))
                .await;
        db.accept_all(&[job_to(&db, &receiver.url("/"))]).await;
        let mut dispatcher = dispatcher(&db, &[]).await;
        eventually("an attempt", async || {
            let retries: i64 = db
                .value("SELECT count(*) FROM webhook_delivery WHERE attempts = 1 AND claim_no IS NULL")
                .await;
            if retries == 1 { Ok(()) } else { Err(retries) }
        })
        .await;
        dispatcher.process.kill().await;
        let pause: f64 = db
            .value(
                "SELECT extract(epoch FROM d.next_attempt_at - a.at)::float8
                    FROM webhook_delivery d JOIN webhook_attempt a ON a.delivery_id = d.id AND a.attempt = 1",
            )
            .await;
        assert!(pause >= seconds && pause < seconds * 1.1 + 2.0, "{status} {header}: {pause}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_is_killed_while_it_sends_has_cost_an_attempt() {
    let db = Db::fresh().await;
    let receiver =
        Receiver::answering(
            |_, nth| if nth == 0 { ReceiverAnswer::Hang } else { ReceiverAnswer::Status(200) },
        )
        .await;
    db.accept_all(&[job_to(&db, &receiver.url("/"))]).await;
    let mut dispatcher = dispatcher(&db, &[]).await;
    eventually("a webhook on its way", async || if receiver.count() == 1 { Ok(()) } else { Err("none") })
        .await;
    dispatcher.process.kill().await;
    dispatcher.process.start_again();
    db.run("UPDATE webhook_delivery SET claimed_until = now()").await;
    assert_eq!(logged(&db, 2).await, ["1 1 retry dispatcher_lost", "1 2 delivered"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_was_paused_for_too_long_writes_nothing_over_its_successor() {
    let db = Db::fresh().await;
    let receiver = Receiver::answering(|_, nth| {
        if nth == 0 { ReceiverAnswer::Late(Duration::from_secs(1), 500) } else { ReceiverAnswer::Status(200) }
    })
    .await;
    db.accept_all(&[job_to(&db, &receiver.url("/"))]).await;
    let paused = dispatcher(&db, &[]).await;
    eventually("a webhook on its way", async || if receiver.count() == 1 { Ok(()) } else { Err("none") })
        .await;
    paused.process.signal(foreman_tests::Signal::SIGSTOP);
    db.run("UPDATE webhook_delivery SET claimed_until = now()").await;
    let _successor = dispatcher(&db, &[]).await;
    let after_both = ["1 1 retry dispatcher_lost", "1 2 delivered"];
    assert_eq!(logged(&db, 2).await, after_both);
    paused.process.signal(foreman_tests::Signal::SIGCONT);
    eventually("a late outcome that was stopped", async || {
        match paused.metric("foreman_stale_writes_total").await {
            1.0 => Ok(()),
            other => Err(other),
        }
    })
    .await;
    assert_eq!(log(&db).await, after_both);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_is_stopped_waits_for_what_it_has_begun() {
    let db = Db::fresh().await;
    let receiver = Receiver::answering(|_, _| ReceiverAnswer::Late(Duration::from_secs(1), 200)).await;
    done_jobs_to(&db, &receiver.url("/"), 20).await;
    let mut dispatcher = dispatcher(&db, &[]).await;
    eventually(
        "webhooks on their way",
        async || if receiver.count() >= 4 { Ok(()) } else { Err(receiver.count()) },
    )
    .await;
    dispatcher.process.terminate().await;
    let held: i64 = db.value("SELECT count(*) FROM webhook_delivery WHERE claim_no IS NOT NULL").await;
    assert_eq!(held, 0);
    let delivered: i64 = db.value("SELECT count(*) FROM webhook_attempt WHERE outcome = 'delivered'").await;
    assert_eq!(usize::try_from(delivered).unwrap(), receiver.count());
}
