//! Daily partitions: made ahead of time, and dropped as a whole when nothing refers to them any more.
//!
//! Must never make others wait for a lock on a table, and never drop a day that is still needed.

use chrono::{DateTime, Days, NaiveDate, NaiveTime, TimeDelta, Utc};
use sqlx::{AssertSqlSafe, Row};

use crate::db::clock::ulid_floor;
use crate::db::conn::Conn;
use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::id::JobId;
use crate::job::new_job::IDEMPOTENCY_HOURS;

/// The tables that are partitioned by the day of the job. Their first column is the job's id.
const PARTITIONED: [&str; 5] = ["job", "job_done", "artifact", "job_event", "webhook_attempt"];

/// How many days ahead partitions are made: the installation survives two weeks without a janitor.
const DAYS_AHEAD: u64 = 14;

/// A waiter for a lock on a parent table stops every insert that comes after it. So wait for at most 50 ms, and try
/// again later.
const GIVE_WAY: &str = "SET LOCAL lock_timeout = '50ms'";

/// A process is not ready if fewer days ahead than this have their partitions.
pub const fn days_ahead_needed() -> i64 {
    2
}

/// The result of an upkeep of the partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartitionUpkeep {
    /// This many days were made or dropped.
    Done(usize),
    /// Somebody reads or locks the tables, a backup for instance. Try again later.
    Busy,
}

impl Store {
    /// Makes the partitions from yesterday to two weeks ahead. Yesterday is included because the clock that stamps
    /// ids may lag.
    ///
    /// Each partition is created as a separate table and then attached: `PARTITION OF` would wait for every reader of
    /// the parent, and stop every insert that comes after it.
    pub async fn make_partitions(&self) -> Result<PartitionUpkeep, StoreError> {
        let today = self.today().await?;
        let first = today - Days::new(1);
        let mut made = 0;
        for day in first.iter_days().take(DAYS_AHEAD as usize + 2) {
            match self.make_day(day).await {
                Ok(new) => made += usize::from(new),
                Err(StoreError::Contended(_)) => return Ok(PartitionUpkeep::Busy),
                Err(error) => return Err(error),
            }
        }
        Ok(PartitionUpkeep::Done(made))
    }

    async fn make_day(&self, day: NaiveDate) -> Result<bool, StoreError> {
        let mut conn = self.open_transaction().await?;
        // Wait for others who make partitions. Nobody else waits for this lock.
        sqlx::query!(
            "-- take_turn_at_partitions
            SELECT pg_advisory_xact_lock(hashtext('foreman partitions'))"
        )
        .execute(&mut conn)
        .await?;
        sqlx::query(GIVE_WAY).execute(&mut conn).await?;
        let (from, to) = bounds(day);
        let (from, to) = (from.uuid(), to.uuid());
        let mut new = false;
        for table in PARTITIONED {
            let name = partition_name(table, day);
            if exists(&mut conn, &name).await? {
                continue;
            }
            for ddl in [
                format!("CREATE TABLE {name} (LIKE {table} INCLUDING ALL)"),
                format!("ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ('{from}') TO ('{to}')"),
            ] {
                sqlx::query(AssertSqlSafe(ddl)).execute(&mut conn).await?;
            }
            new = true;
        }
        conn.done().await?;
        Ok(new)
    }

    /// How many days after today have their partitions, without a gap.
    pub async fn partition_days_ahead(&self) -> Result<i64, StoreError> {
        let today = self.today().await?;
        let days = self.partition_days().await?;
        let mut ahead = -1;
        for day in today.iter_days() {
            if !days.contains(&day) {
                break;
            }
            ahead += 1;
        }
        Ok(ahead)
    }

    /// Whether the day of the ids that this process gives out now has its partitions.
    pub async fn next_id_has_partitions(&self) -> Result<bool, StoreError> {
        Ok(self.partition_days().await?.contains(&self.clock().now().date_naive()))
    }

    /// Drops every day whose jobs have all ended more than `ttl` ago, and whose webhooks have all ended too.
    ///
    /// A day also stays until the idempotency keys of its jobs have expired, however short `ttl` is: a repeated
    /// submission is answered with the first job, so that job must still exist.
    pub async fn drop_partitions(&self, ttl: TimeDelta) -> Result<PartitionUpkeep, StoreError> {
        let mut conn = self.open().await?;
        let now: DateTime<Utc> = sqlx::query_scalar!(
            r#"-- now
            SELECT now() AS "now!""#
        )
        .fetch_one(&mut conn)
        .await?;
        conn.done().await?;
        let mut dropped = 0;
        let shortest_stay = ttl.max(TimeDelta::hours(IDEMPOTENCY_HOURS.into()));
        for day in self.partition_days().await? {
            let end = midnight(day + Days::new(1));
            if end > now - shortest_stay || self.day_is_needed(day, now - ttl).await? {
                continue;
            }
            match self.drop_day(day).await {
                Ok(gone) => dropped += usize::from(gone),
                Err(StoreError::Contended(_)) => return Ok(PartitionUpkeep::Busy),
                Err(error) => return Err(error),
            }
        }
        Ok(PartitionUpkeep::Done(dropped))
    }

    /// Whether the day has live jobs, pending events or undelivered webhooks, or jobs that ended after `horizon`.
    async fn day_is_needed(&self, day: NaiveDate, horizon: DateTime<Utc>) -> Result<bool, StoreError> {
        let (from, to) = bounds(day);
        let mut conn = self.open_for_upkeep().await?;
        let needed = day_is_live(&mut conn, day).await?
            || sqlx::query_scalar!(
                r#"-- day_has_ended_lately
                SELECT EXISTS (SELECT FROM job_done WHERE job_id >= $1 AND job_id < $2 AND completed_at > $3) AS "lately!""#,
                from.uuid(),
                to.uuid(),
                horizon,
            )
            .fetch_one(&mut conn)
            .await?;
        conn.done().await?;
        Ok(needed)
    }

    /// Drops a day that is not needed, unless a row of it has become live since that was checked: somebody may have
    /// asked for a webhook again, or a wrong clock may have stamped a new job with an id of this day. The check need
    /// not read ended jobs again while others wait for the locks: a job that ended since the check was live during
    /// the check.
    ///
    /// Locks no partition of another day, because somebody may vacuum one of them at this moment.
    async fn drop_day(&self, day: NaiveDate) -> Result<bool, StoreError> {
        let mut conn = self.open_transaction().await?;
        sqlx::query(GIVE_WAY).execute(&mut conn).await?;
        lock(&mut conn, PARTITIONED.map(|table| format!("ONLY {table}"))).await?;
        let partitions = PARTITIONED.map(|table| partition_name(table, day));
        // Another janitor may have dropped the day already.
        if !exists(&mut conn, &partitions[0]).await? {
            return Ok(false);
        }
        lock(&mut conn, partitions.clone()).await?;
        if day_is_live(&mut conn, day).await? {
            return Ok(false);
        }
        let ddl = format!("DROP TABLE {}", partitions.join(", "));
        sqlx::query(AssertSqlSafe(ddl)).execute(&mut conn).await?;
        conn.done().await?;
        Ok(true)
    }

    async fn today(&self) -> Result<NaiveDate, StoreError> {
        let today = sqlx::query_scalar!(
            r#"-- today
            SELECT (now() AT TIME ZONE 'UTC')::date AS "today!""#
        )
        .fetch_one(self.once())
        .await?;
        Ok(today)
    }

    /// The days that have a partition of every table, oldest first.
    async fn partition_days(&self) -> Result<Vec<NaiveDate>, StoreError> {
        // Not checked at build time: the partitions are known only at run time.
        let rows = sqlx::query(
            "-- partition_days
            SELECT to_date(right(child.relname::text, 8), 'YYYYMMDD') AS day
            FROM pg_inherits i
            JOIN pg_class child ON child.oid = i.inhrelid
            WHERE i.inhparent = ANY($1::text[]::regclass[]) AND child.relname ~ '_[0-9]{8}$'
            GROUP BY day HAVING count(*) = array_length($1, 1) ORDER BY day",
        )
        .bind(PARTITIONED.map(String::from).to_vec())
        .fetch_all(self.once())
        .await?;
        rows.iter().map(|row| Ok(row.try_get("day")?)).collect()
    }
}

/// Whether the day has live jobs, pending events or undelivered webhooks.
async fn day_is_live(conn: &mut Conn, day: NaiveDate) -> Result<bool, StoreError> {
    let (from, to) = bounds(day);
    Ok(sqlx::query_scalar!(
        r#"-- day_is_live
        SELECT (EXISTS (SELECT FROM job_ready WHERE job_id >= $1 AND job_id < $2)
             OR EXISTS (SELECT FROM job_scheduled WHERE job_id >= $1 AND job_id < $2)
             OR EXISTS (SELECT FROM job_lease WHERE job_id >= $1 AND job_id < $2)
             OR EXISTS (SELECT FROM outbox WHERE job_id >= $1 AND job_id < $2)
             OR EXISTS (SELECT FROM webhook_delivery WHERE job_id >= $1 AND job_id < $2)) AS "live!""#,
        from.uuid(),
        to.uuid(),
    )
    .fetch_one(conn)
    .await?)
}

async fn lock(conn: &mut Conn, tables: [String; PARTITIONED.len()]) -> Result<(), StoreError> {
    let lock = format!("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", tables.join(", "));
    sqlx::query(AssertSqlSafe(lock)).execute(conn).await?;
    Ok(())
}

async fn exists(conn: &mut Conn, table: &str) -> Result<bool, StoreError> {
    Ok(sqlx::query_scalar!(
        r#"-- table_exists
        SELECT to_regclass($1) IS NOT NULL AS "exists!""#,
        table
    )
    .fetch_one(conn)
    .await?)
}

fn partition_name(table: &str, day: NaiveDate) -> String {
    format!("{table}_{}", day.format("%Y%m%d"))
}

fn midnight(day: NaiveDate) -> DateTime<Utc> {
    day.and_time(NaiveTime::MIN).and_utc()
}

/// The lowest id of the day after tomorrow. A statement that looks up many jobs is told that there is none from it on:
/// otherwise Postgres prepares to search the partitions of all days to come, which takes longer than the search.
pub(crate) fn end_of_tomorrow(now: DateTime<Utc>) -> JobId {
    ulid_floor(midnight(now.date_naive() + Days::new(2)))
}

/// The range of ids of a day: from its first id, up to and without the first id of the next day.
fn bounds(day: NaiveDate) -> (JobId, JobId) {
    (ulid_floor(midnight(day)), ulid_floor(midnight(day + Days::new(1))))
}
