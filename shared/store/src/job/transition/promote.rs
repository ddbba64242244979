//! Promotes scheduled jobs that are due to ready ones. This writes no outbox row, because the job was `queued` and
//! stays `queued`.
//!
//! Must never change what a client sees of a job.

use chrono::{DateTime, Utc};

use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::db::wake::Write;
use crate::upkeep::Swept;

impl Store {
    /// Moves scheduled jobs that are due to the ready ones, at most `limit`. Returns how many, and when the next job
    /// is due.
    pub async fn promote(&self, limit: i64) -> Result<(u64, Option<DateTime<Utc>>), StoreError> {
        let (promoted, next) = self.promote_since(DateTime::UNIX_EPOCH, limit).await?;
        Ok((promoted.rows, next))
    }

    /// The same, only for jobs that came due since this moment, so that the statement skips the index entries of jobs
    /// long gone.
    pub async fn promote_since(
        &self,
        since: DateTime<Utc>,
        limit: i64,
    ) -> Result<(Swept, Option<DateTime<Utc>>), StoreError> {
        let mut conn = self.open().await?;
        let promoted = sqlx::query!(
            r#"-- promote_jobs
            WITH due AS MATERIALIZED (
                SELECT client_id, job_id FROM job_scheduled WHERE due_at <= now() AND due_at >= $2
                ORDER BY due_at LIMIT $1 FOR UPDATE SKIP LOCKED
            ), gone AS (
                DELETE FROM job_scheduled s USING due WHERE s.client_id = due.client_id AND s.job_id = due.job_id
                RETURNING s.*
            ), moved AS (
                INSERT INTO job_ready (client_id, job_id, load_key, user_name, priority, sync, attempt, failures, rescues, seq, bytes,
                                       eligible_at, expires_at)
                SELECT client_id, job_id, load_key, user_name, priority, sync, attempt, failures, rescues, seq, bytes, eligible_at,
                       expires_at
                FROM gone
            )
            SELECT count(*) AS "rows!", max(due_at) AS last FROM gone"#,
            limit,
            since,
        )
        .fetch_one(&mut conn)
        .await?;
        let next = sqlx::query_scalar!(
            "-- next_due
            SELECT min(due_at) FROM job_scheduled WHERE due_at >= $1",
            since,
        )
        .fetch_one(&mut conn)
        .await?;
        conn.done().await?;
        if promoted.rows > 0 {
            self.tell([Write::Promoted]);
        }
        Ok((Swept::new(promoted.rows.cast_unsigned(), limit, promoted.last), next))
    }
}
