//! Time comes from Postgres: for expiry, for due times, and for the stamps of ids.

use chrono::{TimeDelta, Utc};
use foreman_store::{AcceptError, Begin, Exit, JobState, NewJob, Phase, Settled, StoreError, ulid_floor};
use foreman_tests::{Db, eventually};

#[tokio::test]
async fn ids_are_stamped_with_the_time_that_a_flush_has_learned() {
    let db = Db::fresh().await;
    let store = db.skewed_store(TimeDelta::hours(3)).await;
    let in_between = ulid_floor(Utc::now() + TimeDelta::hours(2));
    let first = db.new_job_by(&store);
    assert!(first.id < in_between, "all it knows is this machine's clock");
    store.accept(&[first]).await.unwrap();
    assert!(store.clock().next_job_id() > in_between, "by now it knows Postgres' clock");
}

#[tokio::test]
async fn a_glitch_of_the_clock_accepts_nothing_and_leaves_nothing_behind() {
    let db = Db::fresh().await;
    let store = db.store_with_a_clock().await;
    store.accept(&[db.new_job_by(&store)]).await.unwrap();
    db.set_clock(TimeDelta::days(16)).await;
    let refused = store.accept(&[db.new_job_by(&store)]).await.unwrap_err();
    assert!(matches!(refused, AcceptError::Late), "{refused:?}");
    db.set_clock(TimeDelta::zero()).await;
    store.accept(&[db.new_job_by(&store)]).await.unwrap();
    assert!(store.next_id_has_partitions().await.unwrap());
    assert_eq!(db.value::<i64>("SELECT count(*) FROM job").await, 2);
}

#[tokio::test]
async fn a_process_that_starts_in_a_glitch_stamps_right_ids_after_it() {
    let db = Db::fresh().await;
    let store = db.store_with_a_clock().await;
    db.set_clock(TimeDelta::days(16)).await;
    store.learn_time().await.unwrap();
    assert!(!store.next_id_has_partitions().await.unwrap());
    let refused = store.accept(&[db.new_job_by(&store)]).await.unwrap_err();
    assert!(matches!(refused, AcceptError::Not(StoreError::Unable(_))), "{refused:?}");
    db.set_clock(TimeDelta::zero()).await;
    eventually("a job that is accepted", async || {
        // As the api does all the time.
        store.learn_time().await.unwrap();
        store.accept(&[db.new_job_by(&store)]).await.map(drop)
    })
    .await;
    assert!(store.next_id_has_partitions().await.unwrap());
}

#[tokio::test]
async fn what_waits_too_long_expires_in_either_room() {
    let db = Db::fresh().await;
    let hour = Utc::now() + TimeDelta::hours(1);
    let ready = NewJob { expires_at: hour, ..db.new_job() };
    let scheduled = NewJob { run_at: Some(hour - TimeDelta::minutes(1)), expires_at: hour, ..db.new_job() };
    let later = NewJob { expires_at: hour + TimeDelta::hours(3), ..db.new_job() };
    db.accept_all(&[ready.clone(), scheduled.clone(), later.clone()]).await;
    assert_eq!(db.store.expire(10).await.unwrap(), 0);
    let then = db.store_at(TimeDelta::hours(2)).await;
    assert_eq!(then.expire(10).await.unwrap(), 2);
    for job in [ready.id, scheduled.id] {
        assert_eq!(db.room(job).await, "expired");
        assert_eq!(db.history(job).await, ["queued", "expired"]);
    }
    assert_eq!(db.room(later.id).await, "ready");
    db.every_job_has_one_room().await;
}

#[tokio::test]
async fn an_expired_job_is_neither_claimed_nor_begun_but_one_that_runs_may_finish() {
    let db = Db::fresh().await;
    let holder = db.holder().await;
    db.accept(3).await;
    let running = db.start(&holder).await;
    let held = db.claim(&holder, 1).await.remove(0).lease;
    for table in ["job_ready", "job_lease"] {
        db.run(&format!("UPDATE {table} SET expires_at = now() - interval '1 s'")).await;
    }
    assert!(db.claim(&holder, 9).await.is_empty());
    assert_eq!(
        db.store.begin(&[(&held, Phase::Loading), (&running, Phase::Working)]).await.unwrap(),
        [Begin::Expired, Begin::Go]
    );
    assert_eq!(
        db.settle(&[(held, Exit::Expired), (running, foreman_tests::success())]).await.unwrap(),
        [Settled::Into(JobState::Expired), Settled::Into(JobState::Done)]
    );
}

#[tokio::test]
async fn what_falls_due_is_promoted_and_the_next_is_foretold() {
    let db = Db::fresh().await;
    let at = |minutes| Some(Utc::now() + TimeDelta::minutes(minutes));
    let job = |minutes| NewJob { run_at: at(minutes), ..db.new_job() };
    let (soon, later, past) = (job(10), job(90), job(-10));
    db.accept_all(&[soon.clone(), later.clone(), past.clone()]).await;
    assert_eq!(db.room(past.id).await, "ready", "a time that has passed needs no waiting");
    assert_eq!(db.store.promote(10).await.unwrap().0, 0);
    let then = db.store_at(TimeDelta::hours(1)).await;
    let (promoted, next) = then.promote(10).await.unwrap();
    assert_eq!(promoted, 1);
    assert!((next.unwrap() - later.run_at.unwrap()).abs() < TimeDelta::milliseconds(1));
    assert_eq!(
        (db.room(soon.id).await, db.room(later.id).await),
        ("ready".to_owned(), "scheduled".to_owned())
    );
    assert_eq!(db.history(soon.id).await, ["queued"], "it was queued all along");
    let eligible = format!("SELECT eligible_at FROM job_ready WHERE job_id = '{}'", soon.id.uuid());
    let eligible: chrono::DateTime<Utc> = db.value(&eligible).await;
    assert!(
        (eligible - soon.run_at.unwrap()).abs() < TimeDelta::milliseconds(1),
        "its wait counts from its own time"
    );
}
