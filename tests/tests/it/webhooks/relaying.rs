//! The relay moves every row once, however many of it there are.

use foreman_store::{Ended, JobState, NewJob, Receiver, Relayed};
use foreman_tests::Db;

use super::{RETRY, URL, claim_one, done_jobs_to, job_to, relay, settle};

#[tokio::test]
async fn every_transition_becomes_history_and_the_wanted_ones_webhooks() {
    let db = Db::fresh().await;
    done_jobs_to(&db, URL, 2).await;
    let wanted = job_to(&db, URL);
    let receiver = Receiver { events: Some(vec![JobState::Done]), ..wanted.receiver.clone().unwrap() };
    db.accept_all(&[NewJob { receiver: Some(receiver), ..wanted }, db.new_job()]).await;

    let relayed = db.store.relay(1_000).await.unwrap();
    let ended = Ended { model_label: db.new_job().model_label, state: JobState::Done, jobs: 2 };
    assert_eq!(relayed, Relayed::Moved { events: 10, deliveries: 8, ended: vec![ended] });
    assert_eq!(db.value::<i64>("SELECT count(*) FROM outbox").await, 0);
    assert_eq!(db.value::<i64>("SELECT count(*) FROM job_event").await, 10);
    let terminal: Vec<bool> =
        db.values("SELECT DISTINCT terminal FROM webhook_delivery WHERE seq = 4 ORDER BY 1").await;
    assert_eq!(terminal, [true]);
    assert_eq!(db.value::<i64>("SELECT count(*) FROM webhook_lane").await, 1);
    assert_eq!(
        db.store.relay(1_000).await.unwrap(),
        Relayed::Moved { events: 0, deliveries: 0, ended: vec![] }
    );
}

#[tokio::test]
async fn what_ends_before_any_worker_had_it_has_ended_too() {
    let db = Db::fresh().await;
    let (cancelled, expired) = (db.new_job(), db.new_job());
    db.accept_all(&[cancelled.clone(), expired]).await;
    db.store.cancel(cancelled.client, cancelled.id).await.unwrap();
    db.run("UPDATE job_ready SET expires_at = now() - interval '1 s'").await;
    db.store.expire(100).await.unwrap();
    let Relayed::Moved { mut ended, .. } = db.store.relay(1_000).await.unwrap() else {
        panic!("nobody else relays")
    };
    ended.sort_by_key(|ended| ended.state.as_str());
    let ended: Vec<_> = ended.into_iter().map(|ended| (ended.state, ended.jobs)).collect();
    assert_eq!(ended, [(JobState::Cancelled, 1), (JobState::Expired, 1)]);
}

#[tokio::test]
async fn a_batch_takes_the_oldest_first() {
    let db = Db::fresh().await;
    done_jobs_to(&db, URL, 3).await;
    assert!(matches!(db.store.relay(5).await.unwrap(), Relayed::Moved { events: 5, deliveries: 5, .. }));
    let left: i64 = db.value("SELECT min(id) FROM outbox").await;
    let moved: i64 = db.value("SELECT count(*) FROM job_event").await;
    assert_eq!((left, moved), (6, 5));
}

#[tokio::test]
async fn a_relay_beside_another_that_is_at_work_steps_back() {
    let db = Db::fresh().await;
    done_jobs_to(&db, URL, 1).await;
    let mut other = db.pool.begin().await.unwrap();
    sqlx::query("SELECT pg_advisory_xact_lock(hashtext('foreman relay'))")
        .execute(&mut *other)
        .await
        .unwrap();
    assert_eq!(db.store.relay(1_000).await.unwrap(), Relayed::Busy);
    other.rollback().await.unwrap();
    assert!(matches!(db.store.relay(1_000).await.unwrap(), Relayed::Moved { events: 4, deliveries: 4, .. }));
}

/// The snapshot of one relay is often older than the commit of the one before it, and still shows the rows that are gone.
#[tokio::test(flavor = "multi_thread")]
async fn relays_beside_each_other_double_nothing_and_lose_nothing() {
    const JOBS: usize = 4_000;
    let db = Db::fresh().await;
    let accepting = async {
        for _ in 0..JOBS / 20 {
            let jobs: Vec<NewJob> = (0..20).map(|_| job_to(&db, URL)).collect();
            db.accept_all(&jobs).await;
        }
    };
    let all = i64::try_from(JOBS).unwrap();
    let relaying = async || {
        let store = db.another_store();
        while db.value::<i64>("SELECT count(*) FROM job_event").await < all {
            store.relay(7).await.unwrap();
        }
    };
    tokio::join!(accepting, relaying(), relaying(), relaying(), relaying());
    assert_eq!(db.value::<i64>("SELECT count(*) FROM job_event").await, all);
    assert_eq!(db.value::<i64>("SELECT count(*) FROM webhook_delivery").await, all);
    assert_eq!(db.value::<i64>("SELECT count(DISTINCT (job_id, seq)) FROM webhook_delivery").await, all);
    assert_eq!(db.value::<i64>("SELECT count(*) FROM outbox").await, 0);
}

#[tokio::test]
async fn an_event_that_follows_a_waiting_one_is_made_for_its_time() {
    let db = Db::fresh().await;
    db.accept_all(&[job_to(&db, URL)]).await;
    relay(&db.store).await;
    let first = claim_one(&db.store).await;
    settle(&db.store, first, RETRY).await;
    db.start(&db.holder().await).await;
    relay(&db.store).await;
    let times: Vec<bool> = db
        .values("SELECT next_attempt_at = max(next_attempt_at) OVER () FROM webhook_delivery WHERE next_attempt_at > now()")
        .await;
    assert_eq!(times, [true; 3]);
}
