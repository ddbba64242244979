//! `NOTIFY` only wakes: it comes after the commit, one may stand for many, and a waiter that missed one looks again.
//! Every write wakes the waiters that it concerns, so that on a quiet system nobody waits for a poll.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use foreman_store::{
    DeliveryOutcome, Exit, Flush, Lease, NewJob, Permit, Phase, Scope, Store, StoreError,
    wake::{Topic, Wakeup, Wakeups},
};
use foreman_tests::{Db, LOAD_KEY, eventually, reason, success};
use futures_util::FutureExt as _;
use sqlx::postgres::PgListener;
use tokio::task::JoinHandle;

use crate::webhooks::{RETRY, URL, claim, claim_one, done_jobs_to, relay, settle};

fn carry(wakeups: &Wakeups, store: Store) -> JoinHandle<StoreError> {
    let wakeups = wakeups.clone();
    tokio::spawn(async move {
        let Err(error) = wakeups.run(&store).await;
        error
    })
}

/// The server processes that listen for wake-ups.
const LISTENERS: &str =
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query ILIKE 'LISTEN%'";

async fn listens(db: &Db) {
    eventually("a process that listens", async || {
        let listeners: Vec<i32> = db.values(LISTENERS).await;
        if listeners.is_empty() { Err("nobody does") } else { Ok(()) }
    })
    .await;
}

#[tokio::test]
async fn a_wake_up_reaches_the_other_processes() {
    let db = Db::fresh().await;
    let (here, there) = (Wakeups::default(), Wakeups::default());
    let mut cancel = there.subscribe(Topic::Cancel);
    carry(&here, db.another_store());
    carry(&there, db.another_store());
    // Each new listener first makes every waiter look.
    cancel.changed().await;
    here.tell(Topic::Cancel);
    cancel.changed().await;
}

#[tokio::test]
async fn a_thousand_wake_ups_are_a_few_notifications() {
    let db = Db::fresh().await;
    let mut listener = PgListener::connect(db.url()).await.unwrap();
    listener.listen("foreman").await.unwrap();
    let wakeups = Wakeups::default();
    carry(&wakeups, db.another_store());
    for _ in 0..1_000 {
        wakeups.tell(Topic::Ready);
    }
    wakeups.tell(Topic::Job);
    let mut heard = 0;
    while listener.recv().await.unwrap().payload() != "job" {
        heard += 1;
    }
    assert!(heard < 100, "{heard} notifications of a thousand wake-ups");
}

#[tokio::test]
async fn a_lost_listener_is_told_and_the_next_wakes_everybody() {
    let db = Db::fresh().await;
    let wakeups = Wakeups::default();
    let mut ready = wakeups.subscribe(Topic::Ready);
    let carrier = carry(&wakeups, db.another_store());
    ready.changed().await;
    listens(&db).await;
    db.run(&format!("SELECT pg_terminate_backend(pid) FROM ({LISTENERS}) AS listeners")).await;
    assert!(carrier.await.unwrap().outcome_is_unknown(), "its connection was lost");
    // Wake-ups sent meanwhile are lost, so the next listener makes every waiter look.
    carry(&wakeups, db.another_store());
    ready.changed().await;
}

#[tokio::test]
async fn a_silent_line_is_noticed_though_nobody_has_anything_to_say() {
    let db = Db::fresh().await;
    let (line, store) = db.store_behind_a_line(1).await;
    let wakeups = Wakeups::default();
    let mut ready = wakeups.subscribe(Topic::Ready);
    let carrier = carry(&wakeups, store.clone());
    ready.changed().await;
    listens(&db).await;
    // Both connections must be there: one that is still being made would fail in another way.
    let mut listener = PgListener::connect(db.url()).await.unwrap();
    listener.listen("foreman").await.unwrap();
    wakeups.tell(Topic::Job);
    listener.recv().await.unwrap();
    line.fall_silent();
    assert!(carrier.await.unwrap().outcome_is_unknown(), "nothing is heard on its connections");
    carry(&wakeups, store);
    ready.changed().await;
    let (others, mut cancel) = (Wakeups::default(), wakeups.subscribe(Topic::Cancel));
    carry(&others, db.another_store());
    // Twice, because each other process begins by announcing every topic.
    for _ in 0..2 {
        cancel.changed().await;
        others.tell(Topic::Cancel);
    }
    cancel.changed().await;
}

#[tokio::test]
async fn accepting_and_settling_notify_nobody_inside_their_transactions() {
    let db = Db::fresh().await;
    let mut listener = PgListener::connect(db.url()).await.unwrap();
    listener.listen("foreman").await.unwrap();
    db.accept(1).await;
    let lease = db.start(&db.holder().await).await;
    db.settle(&[(lease, success())]).await.unwrap();
    db.run("SELECT pg_notify('foreman', 'last')").await;
    assert_eq!(listener.recv().await.unwrap().payload(), "last", "the first that is heard is the test's own");
}

/// The topics that a write wakes, read right after the write: within a process a wake-up arrives before the write
/// returns.
struct Ear(Vec<(Topic, Wakeup)>);

impl Ear {
    fn new(store: &Store) -> Self {
        Self(Topic::ALL.map(|topic| (topic, store.wakeups().subscribe(topic))).into())
    }

    /// The topics that were woken since the last call.
    fn told(&mut self) -> Vec<Topic> {
        let told =
            self.0.iter_mut().filter_map(|(topic, wakeup)| wakeup.changed().now_or_never().map(|()| *topic));
        told.collect()
    }
}

#[tokio::test]
async fn each_move_of_a_job_wakes_whoever_goes_on_with_it() {
    use Topic::{Cancel, Job, Outbox, Ready, Scheduled};
    let db = Db::fresh().await;
    let holder = db.holder().await;
    let (store, mut ear) = (&db.store, Ear::new(&db.store));
    ear.told();

    db.accept(9).await;
    assert_eq!(ear.told(), [Ready, Outbox], "accepted");
    let later = NewJob { run_at: Some(Utc::now() + TimeDelta::hours(1)), ..db.new_job() };
    db.accept_all(std::slice::from_ref(&later)).await;
    assert_eq!(ear.told(), [Ready, Scheduled, Outbox], "accepted for later");
    store.look_up(&Flush::default(), &[later.id]).await.unwrap();
    assert_eq!(ear.told(), [Ready, Scheduled, Outbox], "accepted, and the answer was lost");

    let offers = [db.offer(1)];
    store.claim(&holder, &offers, 1, Permit::Begun).await.unwrap();
    assert_eq!(ear.told(), [Outbox, Job], "claimed and begun");
    let mut leases: Vec<Lease> = db.claim(&holder, 6).await.into_iter().map(|job| job.lease).collect();
    assert_eq!(ear.told(), [], "what is only held is nobody's news");
    store.begin(&[(&leases[0], Phase::Loading)]).await.unwrap();
    assert_eq!(ear.told(), [Outbox, Job], "loading");
    store.begin(&[(&leases[0], Phase::Working), (&leases[5], Phase::Working)]).await.unwrap();
    assert_eq!(ear.told(), [Outbox, Job], "working");

    let retry = Exit::Retry { reason: reason(), wait: Duration::from_secs(60) };
    let exits = [
        (success(), vec![Outbox, Job]),
        (Exit::Failed(reason()), vec![Outbox, Job]),
        (Exit::Cancelled, vec![Outbox, Job]),
        (Exit::Expired, vec![Outbox, Job]),
        (Exit::HandBack { reason: reason() }, vec![Ready, Outbox, Job]),
        (retry, vec![Scheduled, Outbox, Job]),
    ];
    for (exit, told) in exits {
        let settled = format!("{exit:?}");
        store.settle(&[(leases.remove(0), exit)], &HashMap::new()).await.unwrap();
        assert_eq!(ear.told(), told, "{settled}");
    }

    db.run("UPDATE job_scheduled SET due_at = now()").await;
    store.promote(10).await.unwrap();
    assert_eq!(ear.told(), [Ready], "promoted");
    store.promote(10).await.unwrap();
    assert_eq!(ear.told(), [], "nothing was due");

    store.cancel(db.client, later.id).await.unwrap();
    assert_eq!(ear.told(), [Outbox, Job], "cancelled where it waited");
    let held = db.start(&holder).await;
    ear.told();
    store.cancel(db.client, held.job_id).await.unwrap();
    assert_eq!(ear.told(), [Cancel], "its worker is asked to cancel it");

    db.run("UPDATE job_ready SET expires_at = now() WHERE job_id = (SELECT min(job_id::text)::uuid FROM job_ready)")
        .await;
    store.expire(10).await.unwrap();
    assert_eq!(ear.told(), [Outbox, Job], "expired");
    store.expire(10).await.unwrap();
    assert_eq!(ear.told(), [], "nothing had expired");
    store.publish_models(&holder, &[]).await.unwrap();
    ear.told();
    store.fail_for_want_of_model(&[(LOAD_KEY.to_owned(), reason())], 10).await.unwrap();
    assert_eq!(ear.told(), [Outbox, Job], "failed for want of its model");
}

#[tokio::test]
async fn each_step_of_a_webhook_wakes_the_dispatcher_and_the_last_one_nobody() {
    let db = Db::fresh().await;
    done_jobs_to(&db, URL, 1).await;
    let (store, mut ear) = (&db.store, Ear::new(&db.store));
    ear.told();

    relay(store).await;
    assert_eq!(ear.told(), [Topic::Delivery], "relayed");
    for (outcome, told) in [
        (RETRY, true),
        (DeliveryOutcome::Release { wait: Duration::ZERO }, true),
        (DeliveryOutcome::Delivered, true),
        (DeliveryOutcome::Failed { code: "status_4xx" }, true),
        (DeliveryOutcome::Delivered, true),
        (DeliveryOutcome::Delivered, false),
    ] {
        db.run("UPDATE webhook_delivery SET next_attempt_at = now()").await;
        let delivery = claim_one(store).await;
        assert_eq!(ear.told(), [], "a claim frees nothing");
        let (seq, id) = (delivery.event.seq, delivery.claim.id);
        settle(store, delivery, outcome).await;
        assert_eq!(!ear.told().is_empty(), told, "{outcome:?} of event {seq}");
        if outcome == RETRY {
            store.redeliver(Scope::Everyone, id).await.unwrap();
            assert_eq!(ear.told(), [Topic::Delivery, Topic::Lane], "brought forward");
        }
        if seq == 4 {
            store.redeliver(Scope::Everyone, id).await.unwrap();
            assert_eq!(ear.told(), [Topic::Delivery, Topic::Lane], "delivered again");
        }
    }
    relay(store).await;
    assert_eq!(ear.told(), [], "nothing was relayed");
}

#[tokio::test]
async fn a_webhook_that_ends_unsent_wakes_the_dispatcher_for_the_next_one() {
    let db = Db::fresh().await;
    done_jobs_to(&db, URL, 2).await;
    relay(&db.store).await;
    let claimed = claim(&db.store).await.to_send.len();
    assert_eq!(claimed, 2);
    let mut ear = Ear::new(&db.store);
    db.run("UPDATE webhook_delivery SET claimed_until = now(), attempts = 9 WHERE claim_no IS NOT NULL")
        .await;
    assert_eq!(
        claim(&db.store).await.ended.len(),
        claimed,
        "their dispatcher is lost, and it was the last attempt"
    );
    assert_eq!(ear.told(), [Topic::Delivery, Topic::Lane]);
    db.run(
        "UPDATE webhook_delivery
         SET id = (left(replace(ulid_floor(now() - interval '7 days')::text, '-', ''), 12)
                   || right(replace(id::text, '-', ''), 20))::uuid
         WHERE seq = 2",
    )
    .await;
    assert_eq!(db.store.end_old_deliveries(DateTime::UNIX_EPOCH, 10).await.unwrap().0.len(), 2);
    assert_eq!(ear.told(), [Topic::Delivery, Topic::Lane]);
}

#[tokio::test]
async fn what_a_host_and_its_holder_do_wakes_whoever_waits_for_them() {
    use Topic::{Host, Job, Outbox, Published, Ready};
    let db = Db::fresh().await;
    db.accept(1).await;
    let holder = db.holder().await;
    let (store, mut ear) = (&db.store, Ear::new(&db.store));
    ear.told();

    store.publish_models(&holder, &[]).await.unwrap();
    assert_eq!(ear.told(), [Published]);
    store.note_unreachable(&holder).await.unwrap();
    assert_eq!(ear.told(), [Published], "the api need not wait for it any more");
    assert!(store.release_host(&holder).await.unwrap());
    assert_eq!(ear.told(), [Host]);
    let holder = db.holder().await;
    store.deregister_worker(holder.worker).await.unwrap();
    assert_eq!(ear.told(), [Host], "without its holder the host is free");

    db.accept(1).await;
    let holder = db.holder().await;
    let orphan = db.start(&holder).await.job_id;
    db.run(&format!("DELETE FROM job WHERE id = '{}'", orphan.uuid())).await;
    ear.told();
    store.drop_leases_without_request(holder.worker).await.unwrap();
    assert_eq!(ear.told(), [Job], "whoever holds the host next need not wait for it");

    db.start(&holder).await;
    ear.told();
    let seen = db.heartbeat(&holder).await;
    db.renew(&holder).await;
    store.rescue(&[seen]).await.unwrap();
    assert_eq!(ear.told(), [], "nobody was dead");
    store.rescue(&[db.heartbeat(&holder).await]).await.unwrap();
    assert_eq!(ear.told(), [Ready, Outbox, Job, Host], "rescued");
}
