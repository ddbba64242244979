//! A claim is leased, numbered and counted before anything is sent, and keeps the order of each job's events.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use foreman_store::{
    DeliveryFilter, DeliveryId, DeliveryOutcome, EndedUnsent, LaneHealth, LaneId, NewJob, Redelivery,
    ReportSettled, Scope, ulid_floor,
};
use foreman_tests::{Db, eventually};
use futures_util::future::join_all;

use super::{RETRY, URL, claim, claim_one, done_jobs_to, job_to, log, look, relay, settle};

/// Ends the claims that are held, as time would.
const LAPSE: &str = "UPDATE webhook_delivery SET claimed_until = now() WHERE claim_no IS NOT NULL";

/// The head of each job may be claimed now, whatever its retry waits for.
const COME_DUE: &str = "UPDATE webhook_delivery SET next_attempt_at = now()";

#[tokio::test]
async fn a_claim_is_counted_before_anything_is_sent() {
    let db = Db::fresh().await;
    done_jobs_to(&db, URL, 1).await;
    relay(&db.store).await;
    let delivery = claim_one(&db.store).await;
    assert_eq!((delivery.attempt, delivery.event.seq, delivery.terminal), (1, 1, false));
    let held: bool = db
        .value(
            "SELECT attempts = 1 AND claimed_at IS NOT NULL AND claimed_until = claimed_at + interval '25 s'
                FROM webhook_delivery WHERE claim_no IS NOT NULL",
        )
        .await;
    assert!(held);
    assert!(claim(&db.store).await.to_send.is_empty(), "what is held is not claimed again");
}

#[tokio::test]
async fn the_events_of_a_job_are_claimed_one_after_the_other_and_those_of_others_beside_them() {
    let db = Db::fresh().await;
    done_jobs_to(&db, URL, 2).await;
    relay(&db.store).await;
    for seq in 1..=4 {
        let claimed = claim(&db.store).await.to_send;
        let seqs: Vec<i32> = claimed.iter().map(|delivery| delivery.event.seq).collect();
        assert_eq!(seqs, [seq, seq]);
        for delivery in claimed {
            assert_eq!(settle(&db.store, delivery, DeliveryOutcome::Delivered).await, ReportSettled::Written);
        }
    }
    assert!(claim(&db.store).await.to_send.is_empty());
    assert_eq!(db.value::<i64>("SELECT count(*) FROM webhook_delivery").await, 0);
}

#[tokio::test]
async fn a_webhook_of_a_later_day_than_tomorrow_waits_for_that_day_and_holds_up_no_other() {
    let db = Db::fresh().await;
    let of_day = |days| NewJob { id: ulid_floor(Utc::now() + TimeDelta::days(days)), ..job_to(&db, URL) };
    let jobs = [-1, 0, 1, 3].map(of_day);
    db.accept_all(&jobs).await;
    relay(&db.store).await;
    let mut claimed: Vec<_> = claim(&db.store).await.to_send.iter().map(|delivery| delivery.job).collect();
    claimed.sort_unstable();
    let claimable: Vec<_> = jobs[..3].iter().map(|job| job.id).collect();
    assert_eq!(claimed, claimable);
    let waits: i64 = db.value("SELECT count(*) FROM webhook_delivery WHERE claim_no IS NULL").await;
    assert_eq!(waits, 1);
}

#[tokio::test]
async fn an_event_that_waits_for_its_retry_holds_back_the_later_ones() {
    let db = Db::fresh().await;
    done_jobs_to(&db, URL, 1).await;
    relay(&db.store).await;
    let first = claim_one(&db.store).await;
    settle(&db.store, first, RETRY).await;
    // Even if their own time has come.
    db.run("UPDATE webhook_delivery SET next_attempt_at = now() WHERE seq > 1").await;
    assert!(claim(&db.store).await.to_send.is_empty());
    db.run(COME_DUE).await;
    let again = claim_one(&db.store).await;
    assert_eq!((again.event.seq, again.attempt), (1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_many_ask_for_again_at_the_same_time_is_sent_once_more() {
    let db = Db::fresh().await;
    done_jobs_to(&db, URL, 1).await;
    relay(&db.store).await;
    let first = claim_one(&db.store).await;
    let id = first.claim.id;
    settle(&db.store, first, DeliveryOutcome::Delivered).await;
    let asked = join_all((0..8).map(|_| db.store.redeliver(Scope::Everyone, id))).await;
    let made: HashSet<_> = asked
        .into_iter()
        .map(|again| match again.unwrap() {
            Redelivery::Due(id) => id,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(made.len(), 1);
    assert_eq!(db.value::<i64>("SELECT count(*) FROM webhook_delivery WHERE redelivery").await, 1);
}

#[tokio::test]
async fn what_is_sent_again_by_hand_neither_waits_nor_is_waited_for() {
    let db = Db::fresh().await;
    let job = done_jobs_to(&db, URL, 1).await[0];
    relay(&db.store).await;
    for _ in 0..2 {
        let delivery = claim_one(&db.store).await;
        settle(&db.store, delivery, DeliveryOutcome::Delivered).await;
    }
    let held = claim_one(&db.store).await;
    assert_eq!(held.event.seq, 3);
    let deliveries = db
        .store
        .deliveries(Scope::Everyone, job, &DeliveryFilter::default(), 50)
        .await
        .unwrap()
        .unwrap()
        .deliveries;
    let first = deliveries.iter().find(|delivery| delivery.seq == 1).unwrap().id;
    assert!(matches!(db.store.redeliver(Scope::Everyone, first).await.unwrap(), Redelivery::Due(_)));

    let again = claim_one(&db.store).await;
    assert_eq!((again.event.seq, again.attempt, again.redelivery), (1, 1, true));
    settle(&db.store, again, RETRY).await;
    settle(&db.store, held, DeliveryOutcome::Delivered).await;
    assert_eq!(claim_one(&db.store).await.event.seq, 4);
}

#[tokio::test]
async fn a_claim_that_lapsed_is_taken_over_logged_and_stays_counted() {
    let db = Db::fresh().await;
    done_jobs_to(&db, URL, 1).await;
    relay(&db.store).await;
    let paused = claim_one(&db.store).await;
    db.run(LAPSE).await;
    let claimed = claim(&db.store).await;
    assert_eq!(claimed.lost, 1);
    let successor = claimed.to_send.into_iter().next().unwrap();
    assert_eq!(successor.attempt, 2);
    assert_eq!(log(&db).await, ["1 1 retry dispatcher_lost"]);

    assert_eq!(settle(&db.store, paused, DeliveryOutcome::Delivered).await, ReportSettled::Stale);
    assert_eq!(settle(&db.store, successor, DeliveryOutcome::Delivered).await, ReportSettled::Written);
    assert_eq!(log(&db).await, ["1 1 retry dispatcher_lost", "1 2 delivered"]);
}

#[tokio::test]
async fn a_delivery_that_lost_its_last_dispatcher_is_not_sent_once_more() {
    let db = Db::fresh().await;
    done_jobs_to(&db, URL, 1).await;
    relay(&db.store).await;
    for attempt in 1..=4 {
        assert_eq!(claim_one(&db.store).await.attempt, attempt);
        db.run(LAPSE).await;
    }
    let claimed = claim(&db.store).await;
    assert!(claimed.to_send.is_empty());
    let [EndedUnsent { seq: 1, code: "dispatcher_lost", .. }] = claimed.ended[..] else {
        panic!("{claimed:?}")
    };
    assert_eq!(log(&db).await.last().unwrap(), "1 4 failed dispatcher_lost");
    assert_eq!(claim_one(&db.store).await.event.seq, 2, "the next event is free");
}

#[tokio::test]
async fn after_a_410_the_jobs_other_events_end_unsent_and_visible_and_other_jobs_go_on() {
    let db = Db::fresh().await;
    let jobs = done_jobs_to(&db, URL, 2).await;
    relay(&db.store).await;
    for delivery in claim(&db.store).await.to_send {
        let gone = delivery.job == jobs[0];
        let outcome =
            if gone { DeliveryOutcome::Failed { code: "gone" } } else { DeliveryOutcome::Delivered };
        settle(&db.store, delivery, outcome).await;
    }
    let mut sent = Vec::new();
    loop {
        let claimed = claim(&db.store).await;
        if claimed.to_send.is_empty() && claimed.ended.is_empty() {
            break;
        }
        assert!(claimed.ended.iter().all(|ended| ended.job == jobs[0] && ended.code == "gone"));
        for delivery in claimed.to_send {
            sent.push((delivery.job, delivery.event.seq));
            settle(&db.store, delivery, DeliveryOutcome::Delivered).await;
        }
    }
    assert_eq!(sent, [(jobs[1], 2), (jobs[1], 3), (jobs[1], 4)]);
    assert_eq!(
        log(&db).await[..4],
        ["1 1 failed gone", "2 1 failed gone", "3 1 failed gone", "4 1 failed gone"]
    );

    // Who asks for it by hand gets it sent all the same.
    let deliveries = db
        .store
        .deliveries(Scope::Everyone, jobs[0], &DeliveryFilter::default(), 50)
        .await
        .unwrap()
        .unwrap()
        .deliveries;
    db.store.redeliver(Scope::Everyone, deliveries[3].id).await.unwrap();
    assert_eq!(claim_one(&db.store).await.event.seq, 4);
}

#[tokio::test]
async fn a_done_event_is_claimed_with_what_its_attempt_made() {
    let db = Db::fresh().await;
    done_jobs_to(&db, URL, 1).await;
    relay(&db.store).await;
    for _ in 1..4 {
        let delivery = claim_one(&db.store).await;
        settle(&db.store, delivery, DeliveryOutcome::Delivered).await;
    }
    let mut done = [claim_one(&db.store).await];
    db.store.add_artifacts(&mut done, 1_000).await.unwrap();
    let [completion] = &done[0].event.artifacts[..] else { panic!("{done:?}") };
    assert_eq!((completion.name.as_str(), completion.data.is_some()), ("completion", true));
    db.store.add_artifacts(&mut done, 10).await.unwrap();
    assert!(done[0].event.artifacts[0].data.is_none(), "it is larger than that");
}

/// Sends nothing, but as wildly as real dispatchers: claims, failures, pauses past the lease, all at once.
#[tokio::test(flavor = "multi_thread")]
async fn dispatchers_beside_each_other_keep_the_order_of_every_job() {
    const JOBS: usize = 100;
    let db = Db::fresh().await;
    done_jobs_to(&db, URL, JOBS).await;
    relay(&db.store).await;
    let dispatch = async |number: u64| {
        let store = db.another_store();
        let mut round = number;
        while db.value::<bool>("SELECT EXISTS (SELECT FROM webhook_delivery)").await {
            for delivery in claim(&store).await.to_send {
                round = round.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                match round >> 61 {
                    0 => {
                        // This dispatcher hangs, and another takes its claim.
                        db.run(LAPSE).await;
                        settle(&store, delivery, DeliveryOutcome::Delivered).await;
                    }
                    1 => {
                        settle(
                            &store,
                            delivery,
                            DeliveryOutcome::Retry { wait: Duration::ZERO, code: "status_5xx" },
                        )
                        .await;
                    }
                    _ => {
                        settle(&store, delivery, DeliveryOutcome::Delivered).await;
                    }
                }
            }
        }
    };
    tokio::join!(dispatch(1), dispatch(2), dispatch(3));
    // What the log says is delivered came in order, and everything ended once.
    let ended: i64 = db.value("SELECT count(*) FROM webhook_attempt WHERE outcome <> 'retry'").await;
    assert_eq!(ended, 4 * i64::try_from(JOBS).unwrap());
    let twice: i64 = db
        .value(
            "SELECT count(*) FROM (SELECT delivery_id FROM webhook_attempt WHERE outcome <> 'retry'
                GROUP BY delivery_id HAVING count(*) > 1) AS t",
        )
        .await;
    assert_eq!(twice, 0);
    let (delivered, overtaken): (i64, i64) = sqlx::query_as(
        "SELECT count(*), count(*) FILTER (WHERE before > seq)
         FROM (SELECT seq, lag(seq) OVER (PARTITION BY job_id ORDER BY at) AS before
               FROM webhook_attempt WHERE outcome = 'delivered') AS t",
    )
    .fetch_one(&db.pool)
    .await
    .unwrap();
    assert!(delivered > 0);
    assert_eq!(overtaken, 0);
}

#[tokio::test]
async fn a_claim_walks_past_what_is_blocked_without_reading_it() {
    let db = Db::fresh().await;
    let jobs = done_jobs_to(&db, URL, 50).await;
    relay(&db.store).await;
    for delivery in claim(&db.store).await.to_send {
        settle(&db.store, delivery, RETRY).await;
    }
    let due: i64 = db.value("SELECT count(*) FROM webhook_delivery WHERE next_attempt_at <= now()").await;
    assert_eq!(due, 0, "the later events of {} jobs wait with the first", jobs.len());
}

#[tokio::test]
async fn a_delivery_is_claimed_though_its_lane_was_pruned() {
    let db = Db::fresh().await;
    db.accept_all(&[job_to(&db, URL)]).await;
    relay(&db.store).await;
    db.run("DELETE FROM webhook_lane").await;
    let heads = look(&db.store).await.heads;
    assert_eq!((heads.len(), heads[0].health, heads[0].client), (1, LaneHealth::NeverTried, None));
    let delivery = claim_one(&db.store).await;
    let id: DeliveryId = delivery.claim.id;
    assert_eq!(settle(&db.store, delivery, DeliveryOutcome::Delivered).await, ReportSettled::Written);
    eventually("the end of the delivery", async || {
        let left: i64 =
            db.value(&format!("SELECT count(*) FROM webhook_delivery WHERE id = '{}'", id.uuid())).await;
        if left == 0 { Ok(()) } else { Err(left) }
    })
    .await;
}

#[tokio::test]
async fn a_delivery_to_a_receiver_that_the_job_does_not_have_is_left_alone() {
    let db = Db::fresh().await;
    db.accept_all(&[job_to(&db, URL)]).await;
    relay(&db.store).await;
    let other = LaneId::derive(db.client, "of a kind that a later version has");
    db.run(&format!("UPDATE webhook_delivery SET lane_id = '{}'", other.uuid())).await;
    let claimed = claim(&db.store).await;
    assert_eq!((claimed.to_send.len(), claimed.ended.len()), (0, 0));
    assert_eq!(db.value::<i64>("SELECT count(*) FROM webhook_delivery WHERE claim_no IS NULL").await, 1);
}
