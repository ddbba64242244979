//! Webhooks with much inside: a claim takes no more of them than there is room for, a thin line brings them one after the
//! other, and they never fill the memory of the dispatcher.

use std::time::Duration;

use foreman_store::{Completion, DeliveryOutcome, Exit, JobState, LaneOffer, ReportSettled};
use foreman_tests::{Db, Receiver, ReceiverAnswer, within};

use super::{TERMS, claim, claim_one, dispatcher, job_to, look, peak_memory, relay, report, settle};

/// Jobs whose `done` alone is told to this receiver, with results of about so many bytes.
async fn done_with_results(db: &Db, url: &str, count: usize, bytes: usize) {
    let holder = db.holder().await;
    let completion = format!(r#"{{"message":{{"content":"{}"}},"done":true}}"#, "r".repeat(bytes));
    for _ in 0..count {
        let mut job = job_to(db, url);
        job.request.receiver.as_mut().unwrap().events = Some(vec![JobState::Done]);
        db.accept_all(&[job]).await;
        let lease = db.start(&holder).await;
        let done = Completion {
            completion: completion.clone().into_bytes(),
            content_type: "application/json".to_owned(),
            prompt_tokens: None,
            completion_tokens: None,
        };
        db.settle(&[(lease, Exit::Done(done))]).await.unwrap();
    }
    relay(&db.store).await;
}

/// What a claim brings for these bounds: the bytes of each delivery, without what JSON adds.
async fn claimed_sizes(db: &Db, heavy_of_lane: i64, heavy: i64) -> Vec<u64> {
    let lanes = look(&db.store).await;
    let since = chrono::DateTime::UNIX_EPOCH;
    let offers: Vec<LaneOffer> = lanes
        .heads
        .iter()
        .map(|head| LaneOffer { lane: head.lane, since, at_most: 100, heavy_bytes: heavy_of_lane })
        .collect();
    let claimed = db.store.claim_deliveries(&offers, heavy, TERMS).await.unwrap();
    let mut sizes: Vec<u64> = claimed.to_send.iter().map(|one| one.artifact_bytes / 1_000 * 1_000).collect();
    sizes.sort_unstable();
    sizes
}

#[tokio::test]
async fn a_claim_takes_no_more_heavy_ones_than_there_is_room_for_and_all_light_ones() {
    let db = Db::fresh().await;
    let (one, other) = ("http://127.0.0.1:9/", "http://127.0.0.1:10/");
    done_with_results(&db, one, 3, 100_000).await;
    done_with_results(&db, one, 2, 10_000).await;
    done_with_results(&db, other, 2, 50_000).await;
    assert_eq!(claimed_sizes(&db, 1 << 20, 0).await, [10_000; 2], "light ones need no room");
    assert_eq!(
        claimed_sizes(&db, 1 << 20, 101_000).await,
        [50_000, 100_000],
        "the first of each lane, and the last of them may be larger than the room that is left"
    );
    assert_eq!(claimed_sizes(&db, 0, 1 << 20).await, [0; 0], "a lane has its own bound");
    assert_eq!(claimed_sizes(&db, 1, 1 << 20).await, [50_000, 100_000]);
    assert_eq!(claimed_sizes(&db, 1, 1).await, [100_000]);
}

#[tokio::test]
async fn a_claim_is_extended_for_as_long_as_it_is_in_force() {
    let db = Db::fresh().await;
    done_with_results(&db, super::URL, 1, 20_000).await;
    let paused = claim_one(&db.store).await;
    assert!(paused.is_heavy());
    db.run("UPDATE webhook_delivery SET claimed_until = now() + interval '1 s'").await;
    assert!(db.store.extend_claim(&paused.claim, false, TERMS.lease).await.unwrap());
    let extended = "SELECT claimed_until > now() + interval '20 s' FROM webhook_delivery";
    assert!(db.value::<bool>(extended).await);
    let made = db.store.artifacts(paused.job, 1, paused.artifact_bytes, 1 << 20).await.unwrap();
    assert_eq!(made[0].data.as_ref().map(|data| data.len() as u64), Some(paused.artifact_bytes));

    db.run("UPDATE webhook_delivery SET claimed_until = now()").await;
    let successor = claim_one(&db.store).await;
    assert!(!db.store.extend_claim(&paused.claim, false, TERMS.lease).await.unwrap(), "it is another's");
    let stale = DeliveryOutcome::Release { wait: Duration::ZERO };
    db.store.settle_deliveries(&[report(paused, stale)]).await.unwrap();
    assert!(claim(&db.store).await.to_send.is_empty(), "and stays the other's");
    assert_eq!(settle(&db.store, successor, DeliveryOutcome::Delivered).await, ReportSettled::Written);
}

/// Waits until this receiver has so many webhooks, and nothing is left to be sent.
async fn all_delivered(db: &Db, receiver: &Receiver, count: usize) {
    within(Duration::from_secs(60), "every webhook", async || {
        let left: i64 = db.value("SELECT count(*) FROM webhook_delivery").await;
        if left == 0 { Ok(()) } else { Err(format!("{left} left, {} came", receiver.count())) }
    })
    .await;
    assert_eq!(receiver.count(), count, "each is sent once");
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_with_results_inside_get_over_a_thin_line_once_each() {
    const WEBHOOKS: usize = 16;
    let db = Db::fresh().await;
    let receiver = Receiver::start().await;
    let line = db.line().await;
    let worker = dispatcher(&db, &[("DATABASE_URL", &line.url(db.url()))]).await;
    // Proven first, or a few at a time are all that is tried.
    done_with_results(&db, &receiver.url("/"), 1, 10).await;
    all_delivered(&db, &receiver, 1).await;
    // What one claim would take is ten seconds' worth, while an attempt begins within five of its claim.
    line.throttle(300 << 10);
    done_with_results(&db, &receiver.url("/"), WEBHOOKS, 200 << 10).await;
    all_delivered(&db, &receiver, WEBHOOKS + 1).await;
    let bodies = receiver.received();
    assert!(bodies[1..].iter().all(|webhook| webhook.json()["result"]["done"] == true));
    assert_eq!(worker.metric("foreman_deliveries_claimed_total").await as usize, WEBHOOKS + 1);
    assert_eq!(worker.metric("foreman_stale_writes_total").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_webhooks_to_a_slow_receiver_do_not_fill_the_memory() {
    const WEBHOOKS: usize = 40;
    let db = Db::fresh().await;
    let receiver = Receiver::answering(|_, _| ReceiverAnswer::Late(Duration::from_millis(300), 200)).await;
    let worker = dispatcher(&db, &[("FOREMAN_ARTIFACT_INLINE_LIMIT", "4MiB")]).await;
    done_with_results(&db, &receiver.url("/"), 1, 10).await;
    all_delivered(&db, &receiver, 1).await;
    let before = peak_memory(&worker);
    done_with_results(&db, &receiver.url("/"), WEBHOOKS, 3 << 20).await;
    all_delivered(&db, &receiver, WEBHOOKS + 1).await;
    let grown = peak_memory(&worker) - before;
    assert!(grown < 96, "it took {grown} MiB more");
}
