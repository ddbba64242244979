//! Partitions are made and dropped while everybody works: nobody waits for a janitor, and no needed day is dropped.

use std::sync::Arc;

use chrono::{DateTime, Days, NaiveTime, TimeDelta, Utc};
use foreman_store::{
    DeliveryId, Exit, IdempotencyKey, JobId, JobReceiver, JobRequest, NewJob, PartitionUpkeep, Redelivery,
    Scope, Store,
};
use foreman_tests::{Db, success};

const TTL: TimeDelta = TimeDelta::days(7);

/// A handle that lives forty days ago, with the partitions of that time.
async fn long_ago(db: &Db) -> Store {
    let past = db.store_at(TimeDelta::days(-40)).await;
    assert!(matches!(past.make_partitions().await.unwrap(), PartitionUpkeep::Done(16)));
    past
}

/// A job from forty days ago, with a receiver.
async fn old_job(db: &Db, past: &Store) -> JobId {
    let origin = "http://127.0.0.1:9".to_owned();
    let receiver = JobReceiver { url: format!("{origin}/hook"), origin, events: None };
    let job = db.job(JobRequest { receiver: Some(receiver), ..db.request() });
    let job = NewJob { id: past.clock().next_job_id(), ..job };
    past.accept(std::slice::from_ref(&job)).await.unwrap();
    job.id
}

/// Moves the end of every ended job into the distant past.
async fn age_the_ended(db: &Db) {
    db.run("UPDATE job_done SET completed_at = completed_at - interval '39 days'").await;
}

/// Ends every waiting webhook with one failed attempt.
async fn end_deliveries(db: &Db) {
    db.run(
        "WITH gone AS (DELETE FROM webhook_delivery RETURNING *)
         INSERT INTO webhook_attempt (job_id, delivery_id, attempt, seq, lane_id, url, state, at, outcome, error_code)
         SELECT job_id, id, 1, seq, lane_id, 'http://127.0.0.1:9/hook', 'done', now(), 'failed', 'refused' FROM gone",
    )
    .await;
}

/// A transaction that reads every partition and does not end, like a backup.
async fn backup(db: &Db) -> sqlx::Transaction<'static, sqlx::Postgres> {
    let mut backup = db.pool.begin().await.unwrap();
    for table in ["job", "job_done", "artifact", "job_event", "webhook_attempt"] {
        let read = format!("SELECT FROM {table}");
        sqlx::query(sqlx::AssertSqlSafe(read)).execute(&mut *backup).await.unwrap();
    }
    backup
}

/// A database with the partitions of today. The one that all are copied from is a day behind where midnight has passed since.
async fn made_today() -> Db {
    let db = Db::fresh().await;
    assert!(matches!(db.store.make_partitions().await.unwrap(), PartitionUpkeep::Done(_)));
    db
}

#[tokio::test]
async fn partitions_are_made_beside_readers_and_writers() {
    let db = made_today().await;
    let mut others = backup(&db).await;
    sqlx::query("DELETE FROM job").execute(&mut *others).await.unwrap();
    let later = db.store_at(TimeDelta::days(10)).await;
    assert_eq!(later.make_partitions().await.unwrap(), PartitionUpkeep::Done(10));
    assert_eq!(later.partition_days_ahead().await.unwrap(), 14);
    // Inserts do not queue up behind the janitor.
    db.impatient_store().accept(&[db.new_job()]).await.unwrap();
    others.rollback().await.unwrap();
}

#[tokio::test]
async fn making_partitions_gives_way_to_a_lock_and_goes_on_later() {
    let db = made_today().await;
    let later = db.store_at(TimeDelta::days(10)).await;
    let mut vacuum = db.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE artifact IN SHARE UPDATE EXCLUSIVE MODE").execute(&mut *vacuum).await.unwrap();
    assert_eq!(later.make_partitions().await.unwrap(), PartitionUpkeep::Busy);
    db.impatient_store().accept(&[db.new_job()]).await.unwrap();
    vacuum.rollback().await.unwrap();
    assert_eq!(later.make_partitions().await.unwrap(), PartitionUpkeep::Done(10));
}

#[tokio::test]
async fn dropping_gives_way_to_a_reader_and_stops_nobody() {
    let db = Db::fresh().await;
    long_ago(&db).await;
    let reader = backup(&db).await;
    assert_eq!(db.store.drop_partitions(TTL).await.unwrap(), PartitionUpkeep::Busy);
    let impatient = db.impatient_store();
    let drops = async {
        for _ in 0..5 {
            assert_eq!(db.store.drop_partitions(TTL).await.unwrap(), PartitionUpkeep::Busy);
        }
    };
    let accepts = async {
        for _ in 0..50 {
            impatient.accept(&[db.new_job()]).await.unwrap();
        }
    };
    tokio::join!(drops, accepts);
    reader.rollback().await.unwrap();
    assert_eq!(db.store.drop_partitions(TTL).await.unwrap(), PartitionUpkeep::Done(16));
    db.every_job_has_one_room().await;
}

#[tokio::test]
async fn a_day_stays_until_the_idempotency_keys_of_its_jobs_have_expired() {
    let db = Db::fresh().await;
    let key = IdempotencyKey { key: "once".to_owned(), body_digest: [0; 32] };
    db.accept_all(&[NewJob { idempotency: Some(key), ..db.new_job() }]).await;
    let lease = db.start(&db.holder().await).await;
    db.settle(&[(lease, success())]).await.unwrap();
    db.store.relay(100).await.unwrap();
    let midnight = (db.now().await.date_naive() + Days::new(1)).and_time(NaiveTime::MIN).and_utc();
    // Whatever the hour is, the job came at noon.
    let noon = midnight + TimeDelta::hours(12);
    db.run(&format!("UPDATE idempotency_key SET expires_at = '{noon}'")).await;
    for (hours, jobs) in [(2, 1), (25, 0)] {
        let later = db.store_at(midnight + TimeDelta::hours(hours) - db.now().await).await;
        assert!(matches!(
            later.drop_partitions(TimeDelta::hours(1)).await.unwrap(),
            PartitionUpkeep::Done(_)
        ));
        later.prune_idempotency_keys(DateTime::UNIX_EPOCH, 100).await.unwrap();
        let kept = ["job", "idempotency_key"].map(|table| format!("SELECT count(*) FROM {table}"));
        for count in &kept {
            assert_eq!(db.value::<i64>(count).await, jobs, "{count}, {hours} h after its day");
        }
    }
}

#[tokio::test]
async fn a_day_is_dropped_beside_whoever_vacuums_another() {
    let db = Db::fresh().await;
    long_ago(&db).await;
    let today: String = db.value("SELECT 'job_' || to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD')").await;
    let mut vacuum = db.pool.begin().await.unwrap();
    let lock = format!("LOCK TABLE {today} IN SHARE UPDATE EXCLUSIVE MODE");
    sqlx::query(sqlx::AssertSqlSafe(lock)).execute(&mut *vacuum).await.unwrap();
    assert_eq!(db.store.drop_partitions(TTL).await.unwrap(), PartitionUpkeep::Done(16));
    vacuum.rollback().await.unwrap();
}

/// Clocks stamp the ids, and a clock may be wrong for a moment.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_accepted_for_an_old_day_keeps_it_or_is_refused() {
    let db = Arc::new(Db::fresh().await);
    long_ago(&db).await;
    for days in 27..41 {
        let past = db.store_at(TimeDelta::days(-days)).await;
        let job = db.new_job_by(&past);
        let accepting = tokio::spawn(async move { past.accept(&[job]).await });
        while db.store.drop_partitions(TTL).await.unwrap() == PartitionUpkeep::Busy {}
        let accepted = accepting.await.unwrap().is_ok();
        while db.store.drop_partitions(TTL).await.unwrap() == PartitionUpkeep::Busy {}
        db.every_job_has_one_room().await;
        let waiting: i64 = db.value("SELECT count(*) FROM job_ready").await;
        assert_eq!(waiting, i64::from(accepted), "{days} days ago");
        db.run("DELETE FROM job_ready; DELETE FROM outbox; DELETE FROM job").await;
    }
}

#[tokio::test]
async fn no_day_is_dropped_while_anything_of_it_is_live_pending_undelivered_or_young() {
    let db = Db::fresh().await;
    let past = long_ago(&db).await;
    let job = old_job(&db, &past).await;
    assert_eq!(db.store.drop_partitions(TTL).await.unwrap(), PartitionUpkeep::Done(15), "the empty days go");
    let stays = async |why: &str| {
        assert_eq!(db.store.drop_partitions(TTL).await.unwrap(), PartitionUpkeep::Done(0), "{why}");
        assert_eq!(db.value::<i64>("SELECT count(*) FROM job").await, 1, "{why}");
    };
    let holder = db.holder().await;
    db.store.relay(100).await.unwrap();
    end_deliveries(&db).await;
    stays("it is ready").await;
    let lease = db.claim(&holder, 1).await.remove(0).lease;
    stays("it is leased").await;
    let wait = std::time::Duration::from_secs(60);
    db.settle(&[(lease, Exit::Retry { reason: foreman_tests::reason(), wait })]).await.unwrap();
    stays("it is scheduled").await;
    db.run("UPDATE job_scheduled SET due_at = now()").await;
    db.store.promote(1).await.unwrap();
    let lease = db.start(&holder).await;
    db.settle(&[(lease, success())]).await.unwrap();
    age_the_ended(&db).await;
    stays("its events are in the outbox").await;
    db.store.relay(100).await.unwrap();
    stays("its webhooks are not delivered").await;
    end_deliveries(&db).await;
    db.run("UPDATE job_done SET completed_at = now() - interval '6 days 23 hours'").await;
    stays("it ended less than the TTL ago").await;
    age_the_ended(&db).await;
    assert_eq!(db.store.drop_partitions(TTL).await.unwrap(), PartitionUpkeep::Done(1));
    for table in ["job", "job_done", "artifact", "job_event", "webhook_attempt"] {
        assert_eq!(
            db.value::<i64>(&format!("SELECT count(*) FROM {table}")).await,
            0,
            "{table} goes with its day"
        );
    }
    assert!(db.store.job(Scope::Client(db.client), job, 0).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redelivery_and_a_drop_that_race_never_leave_a_webhook_without_its_job() {
    let db = Arc::new(Db::fresh().await);
    long_ago(&db).await;
    // One job per day, over many days. Waiting jobs keep their days.
    for days in 27..41 {
        let past = db.store_at(TimeDelta::days(-days)).await;
        old_job(&db, &past).await;
    }
    let holder = db.holder().await;
    for round in 0..14 {
        let lease = db.start(&holder).await;
        db.settle(&[(lease, success())]).await.unwrap();
        db.store.relay(100).await.unwrap();
        end_deliveries(&db).await;
        age_the_ended(&db).await;
        let ended: DeliveryId =
            db.value("SELECT delivery_id FROM webhook_attempt ORDER BY seq DESC LIMIT 1").await;
        let redelivery = tokio::spawn({
            let db = Arc::clone(&db);
            async move { db.store.redeliver(Scope::Everyone, ended).await }
        });
        while db.store.drop_partitions(TTL).await.unwrap() == PartitionUpkeep::Busy {}
        let redelivered = redelivery.await.unwrap().unwrap() != Redelivery::Missing;
        let orphans =
            "SELECT count(*) FROM webhook_delivery d WHERE NOT EXISTS (SELECT FROM job WHERE id = d.job_id)";
        assert_eq!(db.value::<i64>(orphans).await, 0, "round {round}");
        let kept = db.value::<i64>("SELECT count(*) FROM job_done").await;
        assert_eq!(kept, i64::from(redelivered), "round {round}: one of the two went first");
        db.run("DELETE FROM webhook_delivery; DELETE FROM webhook_attempt").await;
        while db.store.drop_partitions(TTL).await.unwrap() == PartitionUpkeep::Busy {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_janitors_make_and_drop_the_same_days_in_peace() {
    let db = Arc::new(Db::fresh().await);
    for round in 1..4 {
        let ahead = TimeDelta::days(30 * round);
        let janitors = [db.store_at(ahead).await, db.store_at(ahead).await];
        let both = janitors.map(|janitor| {
            tokio::spawn(async move {
                while janitor.make_partitions().await.unwrap() == PartitionUpkeep::Busy {}
                while janitor.drop_partitions(TTL).await.unwrap() == PartitionUpkeep::Busy {}
                assert_eq!(janitor.partition_days_ahead().await.unwrap(), 14);
            })
        });
        for janitor in both {
            janitor.await.unwrap();
        }
    }
    let kept = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'job'::regclass";
    assert_eq!(db.value::<i64>(kept).await, 16);
}

#[tokio::test]
async fn there_is_no_default_partition_and_every_partitioned_table_has_the_same_days() {
    let db = Db::fresh().await;
    let default = "SELECT relname::text FROM pg_class WHERE pg_get_expr(relpartbound, oid) = 'DEFAULT'";
    assert_eq!(db.values::<String>(default).await, [""; 0], "it would have to be scanned for every new day");
    let days = "SELECT DISTINCT count(*) FROM pg_class p JOIN pg_inherits i ON i.inhparent = p.oid
                WHERE p.relkind = 'p' GROUP BY p.oid";
    assert_eq!(db.values::<i64>(days).await, [16]);
    let first: DateTime<Utc> =
        db.value("SELECT ulid_time(ulid_floor(timestamptz '2026-11-22 12:34:56.789Z'))").await;
    assert_eq!(first.to_rfc3339(), "2026-11-22T12:34:56.789+00:00");
}
