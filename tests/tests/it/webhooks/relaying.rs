//! The relay moves every row once, however many of it there are.

use foreman_store::{
    DeliveryOutcome, DrainBound, EndedJobs, JobId, JobReceiver, JobRequest, JobState, NewJob, Redelivery,
    Relayed, Scope, Store,
};
use foreman_tests::{Db, eventually};

use super::{RETRY, URL, claim_one, done_jobs_to, job_to, relay, settle};

#[tokio::test]
async fn every_transition_becomes_history_and_the_wanted_ones_webhooks() {
    let db = Db::fresh().await;
    done_jobs_to(&db, URL, 2).await;
    let wanted = job_to(&db, URL).request;
    let receiver = JobReceiver { events: Some(vec![JobState::Done]), ..wanted.receiver.clone().unwrap() };
    db.accept_all(&[db.job(JobRequest { receiver: Some(receiver), ..wanted }), db.new_job()]).await;

    let relayed = db.store.relay(1_000).await.unwrap();
    let ended = EndedJobs { model_label: db.request().model_label, state: JobState::Done, jobs: 2 };
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
    db.store.cancel(cancelled.request.client, cancelled.id).await.unwrap();
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

/// Outbox rows of one job, `count` of them from this `seq` on.
fn events(job: JobId, seq: i32, count: i32) -> String {
    format!(
        "INSERT INTO outbox (job_id, seq, attempt, state, previous_state, at)
         SELECT '{}', seq, 1, 'queued', 'working', now() FROM generate_series({seq}, {}) AS seq",
        job.uuid(),
        seq + count - 1
    )
}

/// Index entries that one turn reads.
async fn read_by_a_turn(db: &Db, bound: &mut DrainBound) -> i64 {
    let read =
        "SELECT coalesce(idx_tup_read, 0) FROM pg_stat_user_indexes WHERE indexrelname = 'outbox_pkey'";
    let before: i64 = db.value(read).await;
    let store: Store = db.one_connection();
    store.relay_from(bound, 1_000).await.unwrap();
    store.close().await;
    eventually("the end of a connection", async || {
        let open: i64 = db
            .value("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'foreman'")
            .await;
        if open == 1 { Ok(()) } else { Err(open) }
    })
    .await;
    db.value::<i64>(read).await - before
}

#[tokio::test]
async fn a_turn_steps_over_the_dead_that_an_old_snapshot_keeps() {
    let db = Db::fresh().await;
    db.run("ALTER TABLE outbox SET (autovacuum_enabled = off)").await;
    let job = db.accept(1).await[0];
    let mut snapshot = db.pool.begin().await.unwrap();
    sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ").execute(&mut *snapshot).await.unwrap();
    sqlx::query("SELECT FROM outbox").execute(&mut *snapshot).await.unwrap();
    db.run(&events(job, 2, 30_000)).await;
    let mut bound = DrainBound::default();
    let store = db.one_connection();
    while !matches!(store.relay_from(&mut bound, 5_000).await.unwrap(), Relayed::Moved { events: 0, .. }) {}
    store.close().await;
    db.store.ping().await.unwrap();
    db.run(&events(job, 30_002, 1)).await;
    // Whoever writes elsewhere in the cluster at this moment, another test for instance, is waited for.
    let with = eventually("a turn that reads little", async || {
        let read = read_by_a_turn(&db, &mut bound).await;
        if read < 100 { Ok(read) } else { Err(read) }
    })
    .await;
    let without = read_by_a_turn(&db, &mut DrainBound::default()).await;
    assert!(without > 30_000, "only {without} entries are there to be stepped over");
    assert!(with < 100, "{with} entries were read for one event");
    assert_eq!(db.value::<i64>("SELECT count(*) FROM job_event").await, 30_002);
    snapshot.rollback().await.unwrap();
}

#[tokio::test]
async fn a_row_that_commits_late_is_relayed_in_the_next_turn() {
    let db = Db::fresh().await;
    let jobs = db.accept(2).await;
    let mut bound = DrainBound::default();
    let turn = async |bound: &mut DrainBound| match db.store.relay_from(bound, 100).await.unwrap() {
        Relayed::Moved { events, .. } => events,
        Relayed::Busy => panic!("nobody else relays"),
    };
    assert_eq!(turn(&mut bound).await, 2);
    let mut late = db.pool.begin().await.unwrap();
    sqlx::query(sqlx::AssertSqlSafe(events(jobs[0], 2, 1))).execute(&mut *late).await.unwrap();
    for round in 0..5 {
        db.run(&events(jobs[1], 2 + round, 1)).await;
        assert_eq!(turn(&mut bound).await, 1);
        assert_eq!(turn(&mut bound).await, 0);
    }
    late.commit().await.unwrap();
    assert_eq!(turn(&mut bound).await, 1, "its id is the smallest of them all");
}

/// The relay reads when the first event is tried again, and is slow. Meanwhile somebody has that one sent at once, and it is
/// delivered. Nothing is left then that its followers might wait for.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_slow_relay_makes_does_not_wait_for_an_event_that_was_brought_forward_meanwhile() {
    let db = Db::fresh().await;
    db.accept_all(&[job_to(&db, URL)]).await;
    relay(&db.store).await;
    let first = claim_one(&db.store).await;
    let id = first.claim.id;
    settle(&db.store, first, RETRY).await;
    db.start(&db.holder().await).await;

    let mut slow = db.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM outbox FOR UPDATE").execute(&mut *slow).await.unwrap();
    let other = db.another_store();
    let relaying = tokio::spawn(async move { other.relay(1_000).await.unwrap() });
    eventually("a relay that waits", async || {
        let waiting = "SELECT count(*) FROM pg_stat_activity
                       WHERE datname = current_database() AND query LIKE '-- relay_outbox%' AND wait_event_type = 'Lock'";
        if db.value::<i64>(waiting).await == 1 { Ok(()) } else { Err("it does not") }
    })
    .await;
    assert_eq!(db.store.redeliver(Scope::Everyone, id).await.unwrap(), Redelivery::Due(id));
    let first = claim_one(&db.store).await;
    settle(&db.store, first, DeliveryOutcome::Delivered).await;
    slow.rollback().await.unwrap();
    assert!(matches!(relaying.await.unwrap(), Relayed::Moved { events: 2, deliveries: 2, .. }));
    let waiting = "SELECT count(*) FROM webhook_delivery WHERE next_attempt_at > now()";
    assert_eq!(db.value::<i64>(waiting).await, 0, "nothing waits for what is delivered");
    assert_eq!(claim_one(&db.store).await.event.seq, 2);
}
