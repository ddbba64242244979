//! Api processes whose callers wait for answers: that they live, and what becomes of their jobs when they do not.
//!
//! Must never cancel the jobs of an api that has renewed its row since it was seen.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use crate::db::clock::seconds;
use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::fleet::heartbeat::{Heartbeat, dead_columns};
use crate::id::{ApiId, ClientId, JobId};

/// What a look after the jobs of dead apis found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Orphaned {
    /// Apis that were dead.
    pub apis: u64,
    /// Unfinished jobs whose callers are gone. All of them are cancelled now, or will be by their workers.
    pub jobs: usize,
}

impl Store {
    /// Records that an api lives. It counts as alive until it has not renewed for `ttl`. An api must have done this before
    /// a job names it, because the jobs of an api without a row have nobody who cancels them. Also learns Postgres' time
    /// from the answer.
    pub async fn renew_api(&self, api: ApiId, ttl: Duration) -> Result<(), StoreError> {
        let mut conn = self.open().await?;
        let asked = SystemTime::now();
        let now = sqlx::query_scalar!(
            "-- renew_api
            INSERT INTO api_process (id, ttl, started_at, renewed_at)
            VALUES ($1, make_interval(secs => $2), clock_timestamp(), clock_timestamp())
            ON CONFLICT (id) DO UPDATE SET ttl = excluded.ttl, renewed_at = excluded.renewed_at
            RETURNING renewed_at",
            api.uuid(),
            ttl.as_secs_f64(),
        )
        .fetch_one(&mut conn)
        .await?;
        self.clock().learn(asked, now);
        conn.done().await?;
        Ok(())
    }

    /// Deletes the row of an api that stops. It must have cancelled the jobs of its callers before: nobody looks for them
    /// any more.
    pub async fn deregister_api(&self, api: ApiId) -> Result<(), StoreError> {
        sqlx::query!(
            "-- deregister_api
            DELETE FROM api_process WHERE id = $1",
            api.uuid()
        )
        .execute(self.once())
        .await?;
        Ok(())
    }

    /// Every api that has a row, as the row is now.
    pub async fn api_heartbeats(&self) -> Result<Vec<Heartbeat<ApiId>>, StoreError> {
        let rows = sqlx::query!(
            r#"-- api_heartbeats
            SELECT id AS "id: ApiId", renewed_at, extract(epoch FROM ttl)::float8 AS "ttl!" FROM api_process"#
        )
        .fetch_all(self.once())
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| Heartbeat { id: row.id, renewed_at: row.renewed_at, ttl: seconds(row.ttl) })
            .collect())
    }

    /// Cancels every unfinished job of the `dead` apis, and then deletes their rows. Leaves out apis that have renewed
    /// since they were seen.
    pub async fn cancel_orphans(&self, dead: &[Heartbeat<ApiId>]) -> Result<Orphaned, StoreError> {
        if dead.is_empty() {
            return Ok(Orphaned::default());
        }
        let orphans = self.orphaned_jobs(dead).await?;
        let apis: BTreeSet<_> = orphans.iter().map(|(_, _, api)| *api).collect();
        let jobs: Vec<_> = orphans.iter().map(|(client, job, _)| (*client, *job)).collect();
        self.cancel_all(&jobs, Some(&apis.into_iter().collect::<Vec<_>>())).await?;
        Ok(Orphaned { apis: self.bury_apis(dead).await?, jobs: orphans.len() })
    }

    /// The unfinished jobs of dead apis, each with its api. One statement reads all rooms, because between two statements
    /// a job may move from a room not yet read to a room already read. It looks up the request of every unfinished job,
    /// which takes about 2 s for a million, once for each dead api.
    async fn orphaned_jobs(
        &self,
        dead: &[Heartbeat<ApiId>],
    ) -> Result<Vec<(ClientId, JobId, ApiId)>, StoreError> {
        let (dead, seen) = dead_columns(dead);
        let mut conn = self.open_for_upkeep().await?;
        let rows = sqlx::query!(
            r#"-- orphaned_jobs
            WITH dead AS MATERIALIZED (
                SELECT a.id FROM api_process a
                JOIN unnest($1::uuid[], $2::timestamptz[]) AS dead (id, renewed_at)
                  ON dead.id = a.id AND dead.renewed_at = a.renewed_at
            )
            SELECT j.client_id AS "client: ClientId", j.id AS "job: JobId", j.api_id AS "api!: ApiId"
            FROM (SELECT job_id FROM job_ready
                  UNION ALL SELECT job_id FROM job_scheduled
                  UNION ALL SELECT job_id FROM job_lease) AS room
            JOIN job j ON j.id = room.job_id
            WHERE j.api_id = ANY(ARRAY(SELECT id FROM dead))"#,
            &dead,
            &seen,
        )
        .fetch_all(&mut conn)
        .await?;
        conn.done().await?;
        Ok(rows.into_iter().map(|row| (row.client, row.job, row.api)).collect())
    }

    async fn bury_apis(&self, dead: &[Heartbeat<ApiId>]) -> Result<u64, StoreError> {
        let (dead, seen) = dead_columns(dead);
        let buried = sqlx::query!(
            "-- bury_apis
            DELETE FROM api_process a USING unnest($1::uuid[], $2::timestamptz[]) AS dead (id, renewed_at)
            WHERE a.id = dead.id AND a.renewed_at = dead.renewed_at",
            &dead,
            &seen,
        )
        .execute(self.once())
        .await?;
        Ok(buried.rows_affected())
    }
}
