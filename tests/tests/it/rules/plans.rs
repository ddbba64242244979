//! Hot statements read only the rows they need, whatever statistics Postgres has. Plans that were made while the
//! tables were empty stay cached for days.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use foreman_store::{Exit, Holder, JobId, JobRequest, NewJob, Offer, Permit, Phase, Store, Swept};
use foreman_tests::{Db, eventually, reason, success};
use sqlx::{Postgres, Transaction};

/// The tables that may be large, their partitions included.
const READ: &str = "SELECT coalesce(sum(seq_tup_read), 0)::bigint FROM pg_stat_user_tables
                    WHERE relname ~ '^(job|job_ready|job_scheduled|job_lease|job_done|outbox|artifact)(_[0-9]{8})?$'";

/// Closes a handle, and waits until Postgres has counted what its connections read: until only `left` connections are
/// open.
async fn settle_statistics(db: &Db, store: &Store, left: i64) {
    store.close().await;
    let others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'foreman'";
    eventually("the end of a store's connections", async || {
        let open: i64 = db.value(others).await;
        if open == left { Ok(()) } else { Err(open) }
    })
    .await;
}

/// One job of each kind goes through every hot statement.
async fn work(db: &Db, store: &Store, holder: &Holder) {
    let jobs: Vec<NewJob> =
        (0..8).map(|_| db.job(JobRequest { load_key: "mine".to_owned(), ..db.request() })).collect();
    store.accept(&jobs).await.unwrap();
    store.cancel(db.client, jobs[0].id).await.unwrap();
    let mine = || Offer { load_key: "mine".into(), ..db.offer(5) };
    let mut claimed = store.claim(holder, &[mine()], 5, Permit::Ask).await.unwrap();
    assert_eq!(claimed.len(), 5);
    let begun = store.claim(holder, &[mine()], 5, Permit::Begun).await.unwrap();
    assert_eq!(begun.len(), 2);
    store.cancel(db.client, jobs[1].id).await.unwrap();
    let beginnings: Vec<_> = claimed.iter().skip(1).map(|claimed| (&claimed.lease, Phase::Working)).collect();
    store.begin(&beginnings).await.unwrap();
    store.own_leases(holder.worker).await.unwrap();
    store.cancelled_leases(holder.worker).await.unwrap();
    let wait = Duration::from_secs(3_600);
    let exits = [
        Exit::Cancelled,
        success(),
        Exit::Failed(reason()),
        Exit::Retry { reason: reason(), wait },
        Exit::Failed(reason()),
        success(),
        success(),
    ];
    let exits: Vec<_> = claimed.drain(..).chain(begun).map(|claimed| claimed.lease).zip(exits).collect();
    store.settle(&exits, &HashMap::new()).await.unwrap();
    store.settle(&exits, &HashMap::new()).await.unwrap();
    store.expire(100).await.unwrap();
    store.promote(100).await.unwrap();
    store.rescue(&[]).await.unwrap();
    store.job(foreman_store::Scope::Client(db.client), jobs[2].id, 100).await.unwrap();
}

#[tokio::test]
async fn plans_cached_on_empty_tables_do_not_scan_full_ones() {
    let db = Db::fresh().await;
    db.run(
        "DO $$ DECLARE hot text; BEGIN
             FOREACH hot IN ARRAY '{job_ready,job_scheduled,job_lease,outbox}'::text[] LOOP
                 EXECUTE format('ALTER TABLE %I SET (autovacuum_enabled = off)', hot);
             END LOOP;
         END $$",
    )
    .await;
    let veteran = db.one_connection();
    let holder = db.holder().await;
    // Postgres chooses a plan for good at the sixth execution.
    for _ in 0..8 {
        work(&db, &veteran, &holder).await;
    }
    for _ in 0..20 {
        let some = db.accept(500).await;
        db.claim(&db.holder_of("elsewhere").await, 250).await;
        assert_eq!(some.len(), 500);
    }
    settle_statistics(&db, &db.store, 1).await;
    let before: i64 = db.value(READ).await;
    let rounds = 5;
    for _ in 0..rounds {
        work(&db, &veteran, &holder).await;
    }
    settle_statistics(&db, &veteran, 0).await;
    let read = db.value::<i64>(READ).await - before;
    // It is harmless to read a nearly empty table or day once. There are 5,000 leases and 5,000 ready jobs.
    assert!(read < 100 * rounds, "{read} rows were read by scanning whole tables");
}

#[tokio::test]
async fn a_lower_bound_steps_over_the_dead_that_an_old_snapshot_keeps() {
    let db = Db::fresh().await;
    let holder = db.holder().await;
    let snapshot = old_snapshot(&db).await;
    jobs_that_are_gone(&db, &holder).await;
    let fresh: Vec<JobId> = db.accept(1).await;
    settle_statistics(&db, &db.store, 0).await;
    let before: i64 = db.value(CLAIM_ENTRIES).await;
    let store = db.another_store();
    let bounded = Offer { lower_bound: fresh[0], ..db.offer(1) };
    assert_eq!(store.claim(&holder, &[bounded], 1, Permit::Ask).await.unwrap().len(), 1);
    settle_statistics(&db, &store, 0).await;
    let read = db.value::<i64>(CLAIM_ENTRIES).await - before;
    assert!(read < 50, "{read} entries were read for one job");
    snapshot.rollback().await.unwrap();
}

/// How many entries of the indexes of claims and scans were read so far.
const CLAIM_ENTRIES: &str = "SELECT coalesce(sum(idx_tup_read), 0)::bigint FROM pg_stat_user_indexes
                             WHERE indexrelname IN ('job_ready_group', 'job_ready_scan', 'job_ready_pkey')";

/// 5,000 jobs that were ready and are claimed now.
async fn jobs_that_are_gone(db: &Db, holder: &Holder) {
    for _ in 0..10 {
        db.accept(500).await;
        assert_eq!(db.claim(holder, 500).await.len(), 500);
    }
}

/// A transaction that keeps a snapshot of the database for as long as it lives.
async fn old_snapshot(db: &Db) -> Transaction<'static, Postgres> {
    let mut snapshot = db.pool.begin().await.unwrap();
    sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ").execute(&mut *snapshot).await.unwrap();
    sqlx::query("SELECT FROM job").execute(&mut *snapshot).await.unwrap();
    snapshot
}

#[tokio::test]
async fn a_scan_with_a_memory_steps_over_the_dead_that_an_old_snapshot_keeps() {
    let db = Db::fresh().await;
    let holder = db.holder().await;
    let snapshot = old_snapshot(&db).await;
    jobs_that_are_gone(&db, &holder).await;
    let fresh = db.accept(1).await[0];
    let everything = db.store.ready_groups(&[]).await.unwrap().groups;
    assert_eq!((everything.len(), everything[0].lowest), (1, fresh));
    settle_statistics(&db, &db.store, 0).await;
    let before: i64 = db.value(CLAIM_ENTRIES).await;
    let store = db.another_store();
    assert_eq!(store.ready_groups(&[]).await.unwrap().groups, everything);
    settle_statistics(&db, &store, 0).await;
    let between: i64 = db.value(CLAIM_ENTRIES).await;
    let store = db.another_store();
    assert_eq!(store.ready_groups_at(&everything).await.unwrap(), everything);
    settle_statistics(&db, &store, 0).await;
    let after: i64 = db.value(CLAIM_ENTRIES).await;
    assert!(between - before >= 5_000, "only {} entries are there to be stepped over", between - before);
    assert!(after - between < 50, "{} entries were read for one place", after - between);
    snapshot.rollback().await.unwrap();
}

const OVERDUE: u64 = 4_000;

/// Overdue work for each chore: jobs that came due and then expired, keys and deliveries.
async fn overdue(db: &Db) {
    for _ in 0..OVERDUE / 500 {
        db.accept(500).await;
    }
    db.run(
        "WITH waiting AS (DELETE FROM job_ready RETURNING *)
         INSERT INTO job_scheduled (client_id, job_id, load_key, priority, seq, bytes, due_at, eligible_at, expires_at)
         SELECT client_id, job_id, load_key, priority, seq, bytes, now() - make_interval(hours => 1, secs => nth / 100),
                eligible_at, now() - make_interval(mins => 1, secs => nth / 100)
         FROM (SELECT *, (row_number() OVER ())::float8 AS nth FROM waiting) AS waiting",
    )
    .await;
    db.run(&format!(
        "INSERT INTO idempotency_key (client_id, key, job_id, body_digest, expires_at)
         SELECT ulid_now(), 'key', ulid_now(), '', now() - make_interval(mins => 1, secs => n / 100.0)
         FROM generate_series(1, {OVERDUE}) AS n"
    ))
    .await;
    db.run(&format!(
        "INSERT INTO webhook_delivery (id, lane_id, job_id, seq, terminal, next_attempt_at)
         SELECT ulid_floor(now() - make_interval(days => 6, mins => 1, secs => n / 100.0)), ulid_now(), ulid_now(), 1, true,
                now()
         FROM generate_series(1, {OVERDUE}) AS n"
    ))
    .await;
}

/// Runs each chore in batches of `limit` until nothing is left. Returns how much each chore took.
async fn sweep(store: &Store, since: DateTime<Utc>, limit: i64) -> [u64; 4] {
    [
        drain(since, async |since| store.promote_since(since, limit).await.unwrap().0).await,
        drain(since, async |since| store.expire_since(since, limit).await.unwrap()).await,
        drain(since, async |since| store.prune_idempotency_keys(since, limit).await.unwrap()).await,
        drain(since, async |since| store.end_old_deliveries(since, limit).await.unwrap().1).await,
    ]
}

async fn drain(mut since: DateTime<Utc>, batch: impl AsyncFn(DateTime<Utc>) -> Swept) -> u64 {
    let mut rows = 0;
    loop {
        let swept = batch(since).await;
        rows += swept.rows;
        match swept.stopped_at {
            Some(stopped_at) => since = stopped_at,
            None => return rows,
        }
    }
}

#[tokio::test]
async fn chores_step_over_the_dead_that_an_old_snapshot_keeps() {
    let db = Db::fresh().await;
    let snapshot = old_snapshot(&db).await;
    overdue(&db).await;
    settle_statistics(&db, &db.store, 0).await;
    let read = "SELECT sum(idx_tup_read)::bigint FROM pg_stat_user_indexes
                WHERE indexrelname IN ('job_ready_expiry', 'job_scheduled_expiry', 'job_scheduled_due',
                                       'idempotency_key_expiry', 'webhook_delivery_pkey')";
    let reads_of = async |since, limit, rows| {
        let before: i64 = db.value(read).await;
        let store = db.another_store();
        assert_eq!(sweep(&store, since, limit).await, [rows; 4]);
        settle_statistics(&db, &store, 0).await;
        db.value::<i64>(read).await - before
    };
    let everything = DateTime::UNIX_EPOCH;
    let drained = reads_of(everything, 400, OVERDUE).await;
    let recently = db.now().await - TimeDelta::seconds(2);
    let (bounded, unbounded) = (reads_of(recently, 1_000, 0).await, reads_of(everything, 1_000, 0).await);
    assert!(unbounded >= 16_000, "only {unbounded} entries are there to be stepped over");
    assert!(bounded < 50, "{bounded} entries were read for nothing");
    assert!(drained < 3 * unbounded, "a drain read {drained} entries: each batch walked over those before");
    snapshot.rollback().await.unwrap();
}
