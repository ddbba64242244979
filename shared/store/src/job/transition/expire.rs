//! Expires waiting jobs. A leased job is left to its holder, who learns that it has expired when it begins.
//!
//! Must never end a leased job.

use chrono::{DateTime, Utc};

use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::db::wake::Write;
use crate::upkeep::Swept;

impl Store {
    /// Ends expired jobs of the waiting rooms, at most `limit` per room. Returns how many.
    pub async fn expire(&self, limit: i64) -> Result<u64, StoreError> {
        Ok(self.expire_since(DateTime::UNIX_EPOCH, limit).await?.rows)
    }

    /// The same, only for jobs that expired since this moment, so that the statement skips the index entries of jobs
    /// long gone.
    pub async fn expire_since(&self, since: DateTime<Utc>, limit: i64) -> Result<Swept, StoreError> {
        // Each room is read up to the limit, so a full sweep may end at two different times. No expired job is left
        // before the earlier one.
        let expired = sqlx::query!(
            r#"-- expire_jobs
            WITH late_ready AS MATERIALIZED (
                SELECT client_id, job_id FROM job_ready WHERE expires_at <= now() AND expires_at >= $2
                ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED
            ), late_scheduled AS MATERIALIZED (
                SELECT client_id, job_id FROM job_scheduled WHERE expires_at <= now() AND expires_at >= $2
                ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED
            ), ready AS (
                DELETE FROM job_ready r USING late_ready l WHERE r.client_id = l.client_id AND r.job_id = l.job_id
                RETURNING r.job_id, r.client_id, r.load_key, r.user_name, r.seq + 1 AS seq, r.attempt, r.failures,
                          r.rescues, r.eligible_at, r.expires_at
            ), scheduled AS (
                DELETE FROM job_scheduled s USING late_scheduled l
                WHERE s.client_id = l.client_id AND s.job_id = l.job_id
                RETURNING s.job_id, s.client_id, s.load_key, s.user_name, s.seq + 1 AS seq, s.attempt, s.failures,
                          s.rescues, s.eligible_at, s.expires_at
            ), gone AS MATERIALIZED (
                SELECT *, clock_timestamp() AS at FROM (TABLE ready UNION ALL TABLE scheduled) AS waiting
            ), ended AS (
                INSERT INTO job_done (job_id, client_id, state, seq, attempt, failures, rescues, eligible_at, completed_at)
                SELECT job_id, client_id, 'expired', seq, attempt, failures, rescues, eligible_at, at FROM gone
            ), used AS (
                INSERT INTO usage_entry (hour, client_id, user_name, model, expired)
                SELECT date_trunc('hour', at, 'UTC'), client_id, user_name, split_part(load_key, ' ', 1), count(*)
                FROM gone GROUP BY 1, 2, 3, 4
            ), noted AS (
                INSERT INTO outbox (job_id, seq, attempt, state, previous_state, at)
                SELECT job_id, seq, attempt, 'expired', 'queued', at FROM gone
            )
            SELECT (SELECT count(*) FROM gone) AS "rows!",
                   least((SELECT max(expires_at) FROM ready), (SELECT max(expires_at) FROM scheduled)) AS last"#,
            limit,
            since,
        )
        .fetch_one(self.once())
        .await?;
        if expired.rows > 0 {
            self.tell([Write::EndedUnclaimed]);
        }
        Ok(Swept::new(expired.rows.cast_unsigned(), limit, expired.last))
    }
}
