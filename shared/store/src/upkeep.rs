//! What the janitor ends and deletes outside the transitions of jobs: old deliveries, idempotency keys and idle
//! lanes.
//!
//! Must never process an unbounded number of rows at a time.

use chrono::{DateTime, Utc};

use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::db::wake::Write;
use crate::id::JobId;
use crate::webhook::receiver::query_with_receivers;

/// The result of a sweep, which takes the rows that are due, the longest overdue first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Swept {
    pub rows: u64,
    /// Where a sweep that reached its limit stopped. The rows that came due earlier are gone, or another transaction
    /// held them. `None` if the sweep found fewer rows than its limit.
    pub stopped_at: Option<DateTime<Utc>>,
}

impl Swept {
    /// `last` is when the last of the swept rows came due.
    pub(crate) fn new(rows: u64, limit: i64, last: Option<DateTime<Utc>>) -> Self {
        let is_full = u64::try_from(limit).is_ok_and(|limit| rows >= limit);
        Self { rows, stopped_at: last.filter(|_| is_full) }
    }
}

impl Store {
    /// Ends deliveries that were made more than six days ago, at most `limit`, and logs a last attempt for each.
    /// Leaves a delivery alone while it is being sent. Leaves out deliveries whose six days ended before `since`, and
    /// so skips the index entries of deliveries long gone.
    ///
    /// The ids of deliveries are stamped with the time they were made, so the oldest deliveries are the first of the
    /// primary key.
    pub async fn end_old_deliveries(
        &self,
        since: DateTime<Utc>,
        limit: i64,
    ) -> Result<(Vec<(JobId, i32)>, Swept), StoreError> {
        let rows = query_with_receivers!(
            r#"-- end_old_deliveries
            WITH old AS MATERIALIZED (
                SELECT id FROM webhook_delivery
                WHERE id < ulid_floor(now() - interval '6 days') AND (claim_no IS NULL OR claimed_until <= now())
                  AND id >= ulid_floor(greatest($2::timestamptz - interval '6 days', 'epoch'))
                ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED
            ), gone AS (
                DELETE FROM webhook_delivery d USING old o WHERE d.id = o.id RETURNING d.*
            ), known AS MATERIALIZED (
                SELECT gone.*, receiver.url, receiver.endpoint_id, e.state
                FROM gone
                CROSS JOIN LATERAL (SELECT * FROM job WHERE id = gone.job_id LIMIT 1) AS j
                CROSS JOIN "# + RECEIVER OF "gone.lane_id" + r#"
                CROSS JOIN LATERAL (
                    SELECT state FROM job_event WHERE job_id = gone.job_id AND seq = gone.seq LIMIT 1
                ) AS e
            ), logged AS (
                INSERT INTO webhook_attempt (job_id, delivery_id, attempt, seq, lane_id, endpoint_id, url, state, at, outcome,
                                             error_code)
                SELECT job_id, id, attempts, seq, lane_id, endpoint_id, url, state, claimed_at, 'retry', 'dispatcher_lost'
                FROM known WHERE claim_no IS NOT NULL
                UNION ALL
                SELECT job_id, id, attempts + 1, seq, lane_id, endpoint_id, url, state, now(), 'failed', 'too_old' FROM known
            )
            SELECT job_id AS "job: JobId", seq, ulid_time(id) + interval '6 days' AS "over_at!" FROM gone"#,
            limit,
            since,
        )
        .fetch_all(self.once())
        .await?;
        if !rows.is_empty() {
            self.tell([Write::GivenUpUnsent]);
        }
        let last = rows.iter().map(|row| row.over_at).max();
        let swept = Swept::new(rows.len() as u64, limit, last);
        Ok((rows.into_iter().map(|row| (row.job, row.seq)).collect(), swept))
    }

    /// Deletes idempotency keys that expired after `since`, at most `limit`, and so skips the index entries of keys
    /// long gone.
    pub async fn prune_idempotency_keys(
        &self,
        since: DateTime<Utc>,
        limit: i64,
    ) -> Result<Swept, StoreError> {
        let pruned = sqlx::query!(
            r#"-- prune_idempotency_keys
            WITH old AS MATERIALIZED (
                SELECT client_id, key FROM idempotency_key WHERE expires_at <= now() AND expires_at >= $2
                ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED
            ), gone AS (
                DELETE FROM idempotency_key k USING old o WHERE k.client_id = o.client_id AND k.key = o.key
                RETURNING k.expires_at
            )
            SELECT count(*) AS "rows!", max(expires_at) AS last FROM gone"#,
            limit,
            since,
        )
        .fetch_one(self.once())
        .await?;
        Ok(Swept::new(pruned.rows.cast_unsigned(), limit, pruned.last))
    }

    /// Deletes lanes that sent nothing for a week and have no delivery waiting, at most `limit`. Returns how many. A
    /// webhook that is made at this moment may find its lane missing; it then only lacks the record of how its
    /// receiver answered last.
    pub async fn prune_lanes(&self, limit: i64) -> Result<u64, StoreError> {
        let pruned = sqlx::query!(
            r#"-- prune_lanes
            WITH idle AS MATERIALIZED (
                SELECT l.id FROM webhook_lane l
                WHERE l.last_used_at < now() - interval '7 days'
                  AND NOT EXISTS (SELECT FROM webhook_delivery d WHERE d.lane_id = l.id)
                LIMIT $1 FOR UPDATE SKIP LOCKED
            )
            DELETE FROM webhook_lane l USING idle i WHERE l.id = i.id"#,
            limit,
        )
        .execute(self.once())
        .await?;
        Ok(pruned.rows_affected())
    }
}
