//! `NOTIFY` only wakes: it comes after the commit, many become one, and whoever missed one looks again.

use foreman_store::{
    Store, StoreError,
    wake::{Topic, Wakeups},
};
use foreman_tests::{Db, eventually};
use sqlx::postgres::PgListener;
use tokio::task::JoinHandle;

fn carry(wakeups: &Wakeups, store: Store) -> JoinHandle<StoreError> {
    let wakeups = wakeups.clone();
    tokio::spawn(async move {
        let Err(error) = wakeups.run(&store).await;
        error
    })
}

/// The backends that listen for wake-ups.
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
    // Each listener starts with a look at everything.
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
    // What was told in between is unknown: the next listener makes everybody look.
    carry(&wakeups, db.another_store());
    ready.changed().await;
}

#[tokio::test]
async fn accepting_and_settling_notify_nobody_inside_their_transactions() {
    let db = Db::fresh().await;
    let mut listener = PgListener::connect(db.url()).await.unwrap();
    listener.listen("foreman").await.unwrap();
    db.accept(1).await;
    let lease = db.start(&db.holder().await).await;
    db.store.settle(&[(lease, foreman_tests::success())]).await.unwrap();
    db.run("SELECT pg_notify('foreman', 'last')").await;
    assert_eq!(listener.recv().await.unwrap().payload(), "last", "the first that is heard is the test's own");
}
