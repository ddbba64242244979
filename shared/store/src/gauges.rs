//! Figures about the whole installation that only the database knows. One worker exports them for all.
//!
//! Must never read ended jobs, because these queries run again and again.

use std::time::Duration;

use crate::db::clock::seconds;
use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::fleet::heartbeat::{Heartbeat, dead_columns};
use crate::id::WorkerId;
use crate::webhook::lane::OPENS_AT;

/// An endpoint with a rate limit always has something that waits for a slot. It is being worked off as long as no slot has been
/// free for this long.
const WORKED_OFF: Duration = Duration::from_secs(10);

/// The waiting jobs of one model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelBacklog {
    /// As `/api/tags` names it.
    pub model: String,
    pub queued: i64,
    /// How long the oldest of them could have run; zero if all of them wait for their time.
    pub oldest: Duration,
}

/// The webhooks that are due.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DeliveryBacklog {
    /// Deliveries that wait for a sender or for an earlier event of their job.
    pub due: i64,
    pub oldest_due: Duration,
    /// Lanes that failed so often that only one delivery at a time tries them out, and where something waits. Not those of
    /// endpoints that are disabled or deleted.
    pub lanes_open: i64,
}

impl Store {
    /// Whether this worker exports the gauges: it has the smallest id of the workers that have the role `relay` and
    /// are not `dead`.
    pub async fn exports_gauges(
        &self,
        worker: WorkerId,
        dead: &[Heartbeat<WorkerId>],
    ) -> Result<bool, StoreError> {
        let (dead, seen) = dead_columns(dead);
        let first = sqlx::query_scalar!(
            r#"-- exports_gauges
            SELECT w.id AS "id: WorkerId" FROM worker w
            WHERE 'relay' = ANY(w.roles) AND NOT EXISTS (
                SELECT FROM unnest($1::uuid[], $2::timestamptz[]) AS dead (id, renewed_at)
                WHERE dead.id = w.id AND dead.renewed_at = w.renewed_at)
            ORDER BY w.id LIMIT 1"#,
            &dead,
            &seen,
        )
        .fetch_optional(self.once())
        .await?;
        Ok(first == Some(worker))
    }

    /// The jobs in the state `queued`, by model. Reads waiting jobs only, no ended ones. The model's name is looked
    /// up once per load key, because the narrow rows do not contain it.
    pub async fn model_backlogs(&self) -> Result<Vec<ModelBacklog>, StoreError> {
        // A sample of 100 % is all rows, read in the order in which they lie on the disk: a second for a million jobs.
        // Without it the planner settings of our connections (`connect.rs`) lead along an index, and so to a page for each
        // row: four seconds of three processes.
        let rows = sqlx::query!(
            r#"-- model_backlogs
            WITH waiting AS MATERIALIZED (
                SELECT 'ready' AS room, load_key, count(*) AS jobs, min(eligible_at) AS oldest
                FROM job_ready TABLESAMPLE SYSTEM (100) GROUP BY load_key
                UNION ALL
                SELECT 'scheduled', load_key, count(*), min(eligible_at)
                FROM job_scheduled TABLESAMPLE SYSTEM (100) GROUP BY load_key
                UNION ALL
                SELECT 'held', load_key, count(*), min(eligible_at) FROM job_lease WHERE phase = 'held' GROUP BY load_key
            )
            SELECT j.model_label AS model, sum(w.jobs)::bigint AS "queued!",
                   greatest(0, extract(epoch FROM now() - min(w.oldest)))::float8 AS "oldest!"
            FROM waiting w
            CROSS JOIN LATERAL (
                (SELECT job_id FROM job_ready WHERE w.room = 'ready' AND load_key = w.load_key LIMIT 1)
                UNION ALL
                (SELECT job_id FROM job_scheduled WHERE w.room = 'scheduled' AND load_key = w.load_key LIMIT 1)
                UNION ALL
                (SELECT job_id FROM job_lease WHERE w.room = 'held' AND load_key = w.load_key LIMIT 1)
            ) AS one
            CROSS JOIN LATERAL (SELECT model_label FROM job WHERE id = one.job_id LIMIT 1) AS j
            GROUP BY j.model_label"#
        )
        .fetch_all(self.once())
        .await?;
        let backlog =
            |row: (String, i64, f64)| ModelBacklog { model: row.0, queued: row.1, oldest: seconds(row.2) };
        Ok(rows.into_iter().map(|row| backlog((row.model, row.queued, row.oldest))).collect())
    }

    /// Deliveries that could be sent now: due, and neither of a lane that is held back nor of a disabled endpoint. What waits for
    /// the rate limit of its endpoint is not among them, unless slots have been free for ten seconds already.
    pub async fn delivery_backlog(&self) -> Result<DeliveryBacklog, StoreError> {
        let row = sqlx::query!(
            r#"-- delivery_backlog
            SELECT count(*) AS "due!",
                   coalesce(extract(epoch FROM now() - min(next_attempt_at)), 0)::float8 AS "oldest!",
                   (SELECT count(*)
                    FROM webhook_lane l
                    CROSS JOIN LATERAL (SELECT FROM webhook_delivery WHERE lane_id = l.id LIMIT 1) AS waits
                    WHERE l.failures >= $1
                      AND NOT EXISTS (SELECT FROM webhook_endpoint w
                                      WHERE w.id = l.id AND (w.disabled_at IS NOT NULL OR w.deleted_at IS NOT NULL)))
                   AS "lanes_open!"
            FROM webhook_delivery d
            WHERE next_attempt_at <= now() AND (claim_no IS NULL OR claimed_until <= now())
              AND NOT EXISTS (SELECT FROM webhook_lane l WHERE l.id = d.lane_id AND l.not_before > now())
              AND NOT EXISTS (SELECT FROM webhook_endpoint w WHERE w.id = d.lane_id AND w.disabled_at IS NOT NULL)
              AND NOT EXISTS (SELECT FROM webhook_lane l JOIN webhook_endpoint w ON w.id = l.id
                              WHERE l.id = d.lane_id
                                AND l.next_slot_at + rate_spacing(w.rate_limit) > now() - make_interval(secs => $2))"#,
            OPENS_AT,                 // $1 failures of an open lane
            WORKED_OFF.as_secs_f64(), // $2 seconds
        )
        .fetch_one(self.once())
        .await?;
        Ok(DeliveryBacklog { due: row.due, oldest_due: seconds(row.oldest), lanes_open: row.lanes_open })
    }

    /// How long the oldest event has waited for the relay; zero if no event waits.
    pub async fn outbox_oldest(&self) -> Result<Duration, StoreError> {
        let oldest = sqlx::query_scalar!(
            r#"-- outbox_oldest
            SELECT extract(epoch FROM now() - at)::float8 AS "oldest!" FROM outbox ORDER BY id LIMIT 1"#
        )
        .fetch_optional(self.once())
        .await?;
        Ok(seconds(oldest.unwrap_or_default()))
    }

    /// The age of the oldest transaction on this database. An old transaction keeps vacuum from removing dead rows.
    /// Without the right `pg_read_all_stats` only transactions of our own role are visible.
    pub async fn oldest_transaction(&self) -> Result<Duration, StoreError> {
        let oldest = sqlx::query_scalar!(
            r#"-- oldest_transaction
            SELECT coalesce(extract(epoch FROM clock_timestamp() - min(xact_start)), 0)::float8 AS "oldest!"
            FROM pg_stat_activity
            WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()"#
        )
        .fetch_one(self.once())
        .await?;
        Ok(seconds(oldest))
    }
}
