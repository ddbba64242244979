//! Lanes that are held back: open after ten failures, throttled by their receivers, limited by their endpoints. What waits there
//! loses nothing, and one delivery at a time tries them out, however many dispatchers there are.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use foreman_store::{
    Delivery, DeliveryReport, EndpointId, EndpointSettings, LaneHealth, LaneNews, Scope, Seal, Store,
    StoreError,
};
use foreman_tests::{Db, Receiver, ReceiverAnswer, endpoint_at, eventually};

use super::{DeliveryOutcome, RETRY, URL, claim, dispatcher, done_jobs_to, look, relay, report};

const PROBED: DeliveryOutcome = DeliveryOutcome::Release { wait: Duration::ZERO };

/// Writes what became of attempts, with what it says of the receiver.
pub(super) async fn settle_all(
    store: &Store,
    deliveries: Vec<Delivery>,
    outcome: DeliveryOutcome,
    news: LaneNews,
) {
    let reports: Vec<_> =
        deliveries.into_iter().map(|delivery| DeliveryReport { news, ..report(delivery, outcome) }).collect();
    store.settle_deliveries(&reports).await.unwrap();
}

pub(super) const FAILED: LaneNews = LaneNews::Failed { code: "status_5xx", hold: None };

pub(super) async fn lane(db: &Db) -> (i32, Option<f64>) {
    let sql = "SELECT failures FROM webhook_lane";
    let wait = "SELECT extract(epoch FROM not_before - now())::float8 FROM webhook_lane";
    (db.value(sql).await, db.value(wait).await)
}

pub(super) async fn hold_ends(db: &Db) {
    db.run("UPDATE webhook_lane SET not_before = now() - interval '1 second' WHERE not_before IS NOT NULL")
        .await;
}

/// Opens the lane of `URL`, to which this many jobs have webhooks.
pub(super) async fn opened(jobs: usize) -> Db {
    let db = Db::fresh().await;
    done_jobs_to(&db, URL, jobs).await;
    relay(&db.store).await;
    let mut first = claim(&db.store).await.to_send;
    assert_eq!(first.len(), jobs, "the first webhook of each job");
    let rest = first.split_off(10);
    settle_all(&db.store, first, RETRY, FAILED).await;
    settle_all(&db.store, rest, DeliveryOutcome::Release { wait: Duration::ZERO }, LaneNews::Unknown).await;
    db
}

/// Makes an endpoint at `URL` that takes this many webhooks a second.
pub(super) async fn endpoint(db: &Db, rate_limit: Option<i32>) -> EndpointId {
    let settings = EndpointSettings { rate_limit, ..endpoint_at(URL) };
    let made = db
        .store
        .create_endpoint(&Seal::new(&[1; 32]), db.client, &settings, &Vec::new())
        .await
        .unwrap()
        .unwrap();
    made.endpoint.id
}

pub(super) async fn change(db: &Db, id: EndpointId, change: impl FnOnce(&mut EndpointSettings)) {
    let change = |settings: &mut EndpointSettings| {
        change(settings);
        Ok::<_, StoreError>(())
    };
    db.store.change_endpoint(Scope::Everyone, id, None, change).await.unwrap().unwrap();
}

#[tokio::test]
async fn ten_failures_in_a_row_open_a_lane_and_one_probe_at_a_time_tries_it_out() {
    let db = opened(15).await;
    let (failures, wait) = lane(&db).await;
    assert_eq!(failures, 10);
    assert!((4.0..=5.0).contains(&wait.unwrap()), "{wait:?}");
    assert_eq!(claim(&db.store).await.to_send.len(), 0, "held back");
    let other = db.another_store();
    for (round, least) in [9.0, 19.0, 39.0].into_iter().enumerate() {
        hold_ends(&db).await;
        let (one, another) = tokio::join!(claim(&db.store), claim(&other));
        let probe = one.to_send.into_iter().chain(another.to_send).collect::<Vec<_>>();
        assert_eq!(probe.len(), 1, "of two dispatchers one probes");
        assert!(probe[0].is_probe && probe[0].lane_is_open);
        assert_eq!(claim(&db.store).await.to_send.len(), 0, "nothing beside the probe");
        settle_all(&db.store, probe, PROBED, FAILED).await;
        let (failures, wait) = lane(&db).await;
        assert_eq!(failures, 11 + i32::try_from(round).unwrap());
        assert!((least..=2.0 * least).contains(&wait.unwrap()), "{wait:?}");
    }
    // Ten attempts failed before it opened, and no probe is counted.
    assert_eq!(db.value::<i64>("SELECT sum(attempts) FROM webhook_delivery").await, 10);
    assert_eq!(db.value::<i64>("SELECT count(*) FROM webhook_attempt").await, 10);

    hold_ends(&db).await;
    let probe = claim(&db.store).await.to_send;
    settle_all(&db.store, probe, DeliveryOutcome::Delivered, LaneNews::Succeeded).await;
    assert_eq!(lane(&db).await, (0, None));
    let flowing = claim(&db.store).await.to_send;
    assert!(flowing.len() >= 4, "the others go on: {}", flowing.len());
    assert!(flowing.iter().all(|delivery| !delivery.is_probe && !delivery.lane_is_open));
}

#[tokio::test]
async fn a_success_among_failures_closes_nothing_down_and_late_failures_do_not_lengthen_the_wait() {
    let db = Db::fresh().await;
    done_jobs_to(&db, URL, 30).await;
    relay(&db.store).await;
    let mut under_way = claim(&db.store).await.to_send;
    for _ in 0..2 {
        let failing = under_way.split_off(under_way.len() - 9);
        settle_all(&db.store, failing, RETRY, FAILED).await;
        let good = under_way.split_off(under_way.len() - 1);
        settle_all(&db.store, good, DeliveryOutcome::Delivered, LaneNews::Succeeded).await;
    }
    assert_eq!(lane(&db).await, (0, None));
    settle_all(&db.store, under_way, RETRY, FAILED).await;
    let (failures, wait) = lane(&db).await;
    assert_eq!(failures, 10);
    assert!(wait.unwrap() <= 5.0, "{wait:?}");
}

#[tokio::test]
async fn a_receiver_that_asks_for_time_gets_it_for_all_of_its_webhooks() {
    let db = Db::fresh().await;
    done_jobs_to(&db, URL, 5).await;
    relay(&db.store).await;
    let mut under_way = claim(&db.store).await.to_send;
    let refused = vec![under_way.pop().unwrap()];
    let hold = LaneNews::Failed { code: "status_429", hold: Some(Duration::from_secs(3_600)) };
    settle_all(&db.store, refused, RETRY, hold).await;
    // One that was under way already succeeds. That does not end the hold.
    let late = vec![under_way.pop().unwrap()];
    settle_all(&db.store, late, DeliveryOutcome::Delivered, LaneNews::Succeeded).await;
    let given_back = DeliveryOutcome::Release { wait: Duration::ZERO };
    settle_all(&db.store, under_way, given_back, LaneNews::Unknown).await;
    let (_, wait) = lane(&db).await;
    assert!(wait.unwrap() > 3_500.0, "{wait:?}");
    assert_eq!(claim(&db.store).await.to_send.len(), 0);
    let head = look(&db.store).await;
    assert!(head.heads[0].due_in(head.now) > Duration::from_secs(3_500), "the dispatcher sleeps until then");
    hold_ends(&db).await;
    let probe = claim(&db.store).await.to_send;
    assert_eq!(probe.len(), 1);
    assert!(probe[0].is_probe && !probe[0].lane_is_open, "its failure would count");
    settle_all(&db.store, probe, DeliveryOutcome::Delivered, LaneNews::Succeeded).await;
    assert!(claim(&db.store).await.to_send.len() > 1);
}

#[tokio::test]
async fn a_probe_whose_dispatcher_died_is_followed_by_another_after_its_claim() {
    let db = opened(12).await;
    hold_ends(&db).await;
    assert_eq!(claim(&db.store).await.to_send.len(), 1);
    let (_, wait) = lane(&db).await;
    assert!(wait.unwrap() > 20.0, "as long as the claim holds: {wait:?}");
    hold_ends(&db).await;
    assert_eq!(claim(&db.store).await.to_send.len(), 1);
}

#[tokio::test]
async fn a_probe_that_was_lost_is_not_a_last_attempt() {
    let db = opened(12).await;
    db.run("UPDATE webhook_delivery SET attempts = 9").await;
    for _ in 0..3 {
        hold_ends(&db).await;
        let claimed = claim(&db.store).await;
        assert_eq!((claimed.to_send.len(), claimed.ended.len()), (1, 0));
        db.run("UPDATE webhook_delivery SET claimed_until = now() WHERE claim_no IS NOT NULL").await;
    }
}

#[tokio::test]
async fn a_rate_limit_holds_over_several_dispatchers() {
    const RATE: usize = 20;
    let db = Db::fresh().await;
    endpoint(&db, Some(i32::try_from(RATE).unwrap())).await;
    db.accept(100).await;
    relay(&db.store).await;
    let dispatchers = [db.store.clone(), db.another_store(), db.another_store()];
    eventually("sixty claimed webhooks", async || {
        let [one, two, three] = &dispatchers;
        tokio::join!(claim(one), claim(two), claim(three));
        let claimed: i64 = db.value("SELECT count(*) FROM webhook_delivery WHERE claim_no IS NOT NULL").await;
        if claimed >= 60 { Ok(()) } else { Err(claimed) }
    })
    .await;
    let mut claimed: Vec<DateTime<Utc>> =
        db.values("SELECT claimed_at FROM webhook_delivery WHERE claim_no IS NOT NULL").await;
    claimed.sort_unstable();
    for window in claimed.windows(RATE + 1) {
        let took = window[RATE] - window[0];
        assert!(took >= TimeDelta::seconds(1), "{} webhooks within {took}", RATE + 1);
    }
}

#[tokio::test]
async fn an_endpoint_that_is_disabled_and_enabled_again_and_again_gets_no_more_than_its_limit() {
    let db = Db::fresh().await;
    let id = endpoint(&db, Some(1)).await;
    db.accept(20).await;
    relay(&db.store).await;
    let began = db.now().await;
    for _ in 0..10 {
        claim(&db.store).await;
        change(&db, id, |settings| settings.is_disabled = true).await;
        change(&db, id, |settings| settings.is_disabled = false).await;
    }
    let took = (db.now().await - began).num_seconds();
    let claimed: i64 = db.value("SELECT count(*) FROM webhook_delivery WHERE claim_no IS NOT NULL").await;
    assert!(claimed <= took + 2, "{claimed} webhooks in {took} s");
}

#[tokio::test]
async fn an_answer_from_where_an_endpoint_was_before_says_nothing_of_its_new_receiver() {
    let db = Db::fresh().await;
    let id = endpoint(&db, None).await;
    db.accept(4).await;
    relay(&db.store).await;
    let mut under_way = claim(&db.store).await.to_send;
    change(&db, id, |settings| settings.url = format!("{URL}new")).await;
    let gone = DeliveryOutcome::Retry { wait: Duration::ZERO, code: "gone" };
    let good = under_way.split_off(3);
    settle_all(&db.store, good, DeliveryOutcome::Delivered, LaneNews::Succeeded).await;
    settle_all(&db.store, under_way, gone, LaneNews::Failed { code: "gone", hold: None }).await;
    assert!(!db.value::<bool>("SELECT disabled_at IS NOT NULL FROM webhook_endpoint").await);
    assert_eq!(look(&db.store).await.heads[0].health, LaneHealth::NeverTried);
    assert_eq!(lane(&db).await, (0, None));
    let mut mixed = claim(&db.store).await.to_send;
    assert_eq!(mixed.len(), 3);
    // In one batch the old receiver fails, and the new one takes what it gets.
    let mut again = mixed.split_off(1);
    let taken = |delivery| DeliveryReport {
        news: LaneNews::Succeeded,
        ..report(delivery, DeliveryOutcome::Delivered)
    };
    let mut reports: Vec<_> = mixed.into_iter().map(taken).collect();
    for mut delivery in again.split_off(1) {
        URL.clone_into(&mut delivery.receiver.url);
        reports.push(DeliveryReport { news: FAILED, ..report(delivery, RETRY) });
    }
    db.store.settle_deliveries(&reports).await.unwrap();
    assert_eq!((lane(&db).await, look(&db.store).await.heads[0].health), ((0, None), LaneHealth::Proven));
    settle_all(&db.store, again, gone, LaneNews::Failed { code: "gone", hold: None }).await;
    assert!(
        db.value::<bool>("SELECT disabled_at IS NOT NULL FROM webhook_endpoint").await,
        "the new one says so"
    );
}

#[tokio::test]
async fn a_probe_whose_claim_is_extended_stays_the_only_one() {
    let db = opened(15).await;
    hold_ends(&db).await;
    let probe = claim(&db.store).await.to_send.pop().unwrap();
    hold_ends(&db).await;
    let lease = Duration::from_secs(30);
    assert!(db.store.extend_claim(&probe.claim, probe.is_probe, lease).await.unwrap());
    assert_eq!(claim(&db.store).await.to_send.len(), 0);
    assert!(lane(&db).await.1.unwrap() > 25.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_always_fails_or_asks_for_an_hour_is_asked_a_few_times_for_a_hundred_jobs() {
    for (answer, least) in
        [(ReceiverAnswer::Status(500), 10), (ReceiverAnswer::With(429, "retry-after", "3600".to_owned()), 1)]
    {
        let db = Db::fresh().await;
        let receiver = Receiver::answering(move |_, _| answer.clone()).await;
        done_jobs_to(&db, &receiver.url("/"), 100).await;
        let _dispatchers = (dispatcher(&db, &[]).await, dispatcher(&db, &[]).await);
        eventually("a lane that is held back", async || {
            let held = "SELECT count(*) FROM webhook_lane WHERE not_before > now()
                        AND NOT EXISTS (SELECT FROM webhook_delivery WHERE claim_no IS NOT NULL)";
            let held: i64 = db.value(held).await;
            if held == 1 && receiver.count() >= least { Ok(()) } else { Err(receiver.count()) }
        })
        .await;
        // Those that were under way when it was held back, and none after them.
        let most = 10 + 2 * 8;
        assert!(receiver.count() <= most, "{} requests", receiver.count());
        assert_eq!(db.value::<i64>("SELECT count(*) FROM webhook_delivery").await, 400, "all wait");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_comes_back_gets_everything_in_order_without_a_poll() {
    let db = Db::fresh().await;
    let receiver =
        Receiver::answering(|_, before| ReceiverAnswer::Status(if before < 10 { 500 } else { 200 })).await;
    done_jobs_to(&db, &receiver.url("/"), 20).await;
    let _dispatcher = dispatcher(&db, &[("FOREMAN_WEBHOOK_RETRY_SCHEDULE", "10ms,10ms,10ms")]).await;
    eventually("the end of all webhooks", async || {
        let left = "SELECT (SELECT count(*) FROM outbox) + (SELECT count(*) FROM webhook_delivery)";
        let left: i64 = db.value(left).await;
        if left == 0 { Ok(()) } else { Err(left) }
    })
    .await;
    let delivered = "SELECT count(*) FROM webhook_attempt WHERE outcome = 'delivered'";
    assert_eq!(db.value::<i64>(delivered).await, 80, "nothing is dropped");
}

/// As the documents advise: a receiver answers 410 to the jobs that it does not want, and works.
#[tokio::test(flavor = "multi_thread")]
async fn a_410_opens_no_lane_and_proves_none_and_lets_the_next_probe_go_at_once() {
    let db = Db::fresh().await;
    let receiver = Receiver::answering(|webhook, _| {
        ReceiverAnswer::Status(if webhook.path == "/unwanted" { 410 } else { 200 })
    });
    let receiver = receiver.await;
    done_jobs_to(&db, &receiver.url("/unwanted"), 20).await;
    let _dispatcher = dispatcher(&db, &[]).await;
    let all_end = async || {
        eventually("the end of all webhooks", async || {
            let left = "SELECT (SELECT count(*) FROM outbox) + (SELECT count(*) FROM webhook_delivery)";
            match db.value::<i64>(left).await {
                0 => Ok(()),
                left => Err(left),
            }
        })
        .await;
    };
    all_end().await;
    assert_eq!(receiver.count(), 20, "one webhook of each job");
    assert_eq!(lane(&db).await, (0, None));
    assert_eq!(db.value::<Option<bool>>("SELECT healthy FROM webhook_lane").await, None);

    // Open, as after ten failures of another kind. Each of these probes is answered 410.
    db.run("UPDATE webhook_lane SET failures = 10, not_before = now()").await;
    done_jobs_to(&db, &receiver.url("/unwanted"), 20).await;
    all_end().await;
    assert_eq!(receiver.count(), 40);
    assert_eq!(lane(&db).await.0, 10, "neither a failure nor a success");
    done_jobs_to(&db, &receiver.url("/wanted"), 1).await;
    all_end().await;
    assert_eq!(lane(&db).await, (0, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn receivers_that_refuse_all_but_last_events_get_these_soon() {
    const JOBS: usize = 30;
    let db = Db::fresh().await;
    let only_last = |refusal: u16| {
        Receiver::answering(move |webhook, _| {
            ReceiverAnswer::Status(if webhook.json()["state"] == "done" { 200 } else { refusal })
        })
    };
    let receivers = [only_last(400).await, only_last(500).await];
    for receiver in &receivers {
        done_jobs_to(&db, &receiver.url("/"), JOBS).await;
    }
    let _dispatcher = dispatcher(&db, &[("FOREMAN_WEBHOOK_RETRY_SCHEDULE", "1s,1s,1s")]).await;
    eventually("two open lanes", async || {
        match db.value::<i64>("SELECT count(*) FROM webhook_lane WHERE failures >= 10").await {
            2 => Ok(()),
            open => Err(open),
        }
    })
    .await;
    eventually("the end of all webhooks", async || {
        match db.value::<i64>("SELECT count(*) FROM webhook_delivery").await {
            0 => Ok(()),
            left => Err(left),
        }
    })
    .await;
    let count = async |which: &str| {
        db.value::<i64>(&format!("SELECT count(*) FROM webhook_attempt WHERE {which}")).await
    };
    let jobs = i64::try_from(2 * JOBS).unwrap();
    assert_eq!(count("outcome = 'delivered' AND state = 'done'").await, jobs);
    assert_eq!(count("outcome = 'failed' AND error_code IN ('status_4xx', 'status_5xx')").await, 3 * jobs);
    assert_eq!(count("attempt > 4").await, 0);
}

/// Down for much longer than the schedule of the events before the last. 502 is what a proxy answers for a receiver that is
/// away, 500 what a receiver answers that fails at everything.
#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_down_for_long_loses_no_last_event() {
    for down in [502, 500] {
        let db = Db::fresh().await;
        let is_up = Arc::new(AtomicBool::new(false));
        let up = Arc::clone(&is_up);
        let receiver = Receiver::answering(move |_, _| {
            ReceiverAnswer::Status(if up.load(Ordering::Relaxed) { 200 } else { down })
        });
        let receiver = receiver.await;
        done_jobs_to(&db, &receiver.url("/"), 12).await;
        let _dispatcher = dispatcher(&db, &[("FOREMAN_WEBHOOK_RETRY_SCHEDULE", "100ms,1s,1s")]).await;
        // The wait before each probe would be twice as long as the one before.
        eventually(
            "an open lane and three probes in vain, of a last event where one comes so far",
            async || {
                hold_ends(&db).await;
                let failures: i32 = db.value("SELECT coalesce(max(failures), 0) FROM webhook_lane").await;
                let last = receiver.received().iter().any(|webhook| webhook.json()["state"] == "done");
                if failures >= 13 && (last || down == 502) { Ok(()) } else { Err(failures) }
            },
        )
        .await;
        is_up.store(true, Ordering::Relaxed);
        eventually("the end of all webhooks", async || {
            hold_ends(&db).await;
            match db.value::<i64>("SELECT count(*) FROM webhook_delivery").await {
                0 => Ok(()),
                left => Err(left),
            }
        })
        .await;
        let delivered = "SELECT count(*) FROM webhook_attempt WHERE outcome = 'delivered'";
        let done = format!("{delivered} AND state = 'done'");
        assert_eq!(db.value::<i64>(&done).await, 12, "after answers {down}");
        if down == 502 {
            assert_eq!(db.value::<i64>(delivered).await, 48, "nothing is dropped");
        }
    }
}
