//! Nothing is claimed for a drained host, whoever holds it, and no claim slips past the drain.

use foreman_store::{Permit, PublishedModel};
use foreman_tests::{Db, LOAD_KEY, eventually};

const HOST: &str = "test-host";

/// Somebody waits for a lock.
async fn somebody_waits(db: &Db) {
    eventually("a statement that waits", async || {
        let waiting: i64 = db.value("SELECT count(*) FROM pg_locks WHERE NOT granted").await;
        if waiting > 0 { Ok(()) } else { Err("nobody waits") }
    })
    .await;
}

#[tokio::test]
async fn a_drained_host_gets_no_job_until_it_is_resumed_whoever_holds_it() {
    let db = Db::fresh().await;
    db.accept(3).await;
    let holder = db.holder().await;
    assert_eq!(db.claim(&holder, 1).await.len(), 1);
    assert!(db.store.drain_host(HOST).await.unwrap());
    assert_eq!(db.claim(&holder, 2).await.len(), 0);
    let next = db.holder().await;
    assert_eq!(db.claim(&next, 2).await.len(), 0, "a change of holder ends no drain");
    assert!(db.store.is_drained(HOST).await.unwrap());
    let elsewhere = db.holder_of("another-host").await;
    assert_eq!(db.claim(&elsewhere, 1).await.len(), 1, "another host goes on");
    assert!(db.store.resume_host(HOST).await.unwrap());
    assert_eq!(db.claim(&next, 2).await.len(), 1);
}

#[tokio::test]
async fn of_two_drains_the_first_counts_and_a_host_that_nobody_knows_is_not_drained() {
    let db = Db::fresh().await;
    db.holder().await;
    let (one, two) = tokio::join!(db.store.drain_host(HOST), db.store.drain_host(HOST));
    assert!(one.unwrap() && two.unwrap());
    let since = "SELECT drained_at::text FROM host";
    let first: String = db.value(since).await;
    db.store.drain_host(HOST).await.unwrap();
    assert_eq!(db.value::<String>(since).await, first);
    assert_eq!(db.store.drained_hosts().await.unwrap(), 1);
    assert!(!db.store.drain_host("elsewhere").await.unwrap());
    assert!(!db.store.resume_host("elsewhere").await.unwrap());
    assert!(!db.store.is_drained("elsewhere").await.unwrap());
}

#[tokio::test]
async fn a_drain_waits_for_a_claim_in_flight() {
    let db = Db::fresh().await;
    db.accept(2).await;
    let holder = db.holder().await;
    // A claim just before its commit: it holds key-share locks on the two rows that it proves.
    let mut claim = db.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM worker w JOIN host h ON h.holder = w.id WHERE w.id = $1 FOR KEY SHARE")
        .bind(holder.worker.uuid())
        .execute(&mut *claim)
        .await
        .unwrap();
    let store = db.another_store();
    let drain = tokio::spawn(async move { store.drain_host(HOST).await.unwrap() });
    somebody_waits(&db).await;
    assert!(!db.store.is_drained(HOST).await.unwrap());
    claim.commit().await.unwrap();
    assert!(drain.await.unwrap());
    assert_eq!(db.claim(&holder, 2).await.len(), 0);
}

#[tokio::test]
async fn a_claim_that_waits_behind_a_drain_brings_nothing() {
    let db = Db::fresh().await;
    db.accept(2).await;
    let holder = db.holder().await;
    let mut drain = db.pool.begin().await.unwrap();
    let held = "WITH locked AS MATERIALIZED (SELECT id FROM host FOR UPDATE)
                UPDATE host h SET drained_at = now() FROM locked WHERE h.id = locked.id";
    sqlx::query(held).execute(&mut *drain).await.unwrap();
    let (store, offer) = (db.another_store(), db.offer(2));
    let claim = tokio::spawn(async move { store.claim(&holder, &[offer], 2, Permit::Ask).await.unwrap() });
    somebody_waits(&db).await;
    drain.commit().await.unwrap();
    assert_eq!(claim.await.unwrap().len(), 0);
}

#[tokio::test]
async fn jobs_of_a_model_that_only_a_drained_host_has_wait_and_do_not_fail() {
    let db = Db::fresh().await;
    let holder = db.holder().await;
    let model =
        PublishedModel { canonical: LOAD_KEY.to_owned(), label: LOAD_KEY.to_owned(), completes: true };
    db.store.publish_models(&holder, &[model]).await.unwrap();
    db.accept(1).await;
    db.store.drain_host(HOST).await.unwrap();
    assert_eq!(db.store.missing_models().await.unwrap(), [""; 0]);
}
