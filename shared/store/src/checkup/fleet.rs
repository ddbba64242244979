//! The rows of workers, those of dead workers included, and the leases that they left.

use std::time::Duration;

use crate::db::clock::seconds;
use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::id::WorkerId;

/// A worker process as its row describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerRow {
    pub id: WorkerId,
    pub host: String,
    pub roles: Vec<String>,
    /// By Postgres' clock. If that clock was set, this is right again after the next renewal.
    pub is_alive: bool,
    /// Time since the last renewal.
    pub silent: Duration,
}

/// Leased jobs whose worker is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrphanedLeases {
    pub jobs: i64,
    /// Time since the first of them could have been rescued.
    pub oldest: Duration,
}

impl Store {
    /// Every worker that has a row, live workers first.
    pub async fn workers(&self) -> Result<Vec<WorkerRow>, StoreError> {
        let rows = sqlx::query!(
            r#"-- workers
            SELECT id AS "id: WorkerId", host_id, roles,
                   clock_timestamp() BETWEEN renewed_at - ttl AND renewed_at + ttl AS "is_alive!",
                   extract(epoch FROM clock_timestamp() - renewed_at)::float8 AS "silent!"
            FROM worker ORDER BY clock_timestamp() BETWEEN renewed_at - ttl AND renewed_at + ttl DESC, id"#
        )
        .fetch_all(self.once())
        .await?;
        let worker = |row: (WorkerId, String, Vec<String>, bool, f64)| WorkerRow {
            id: row.0,
            host: row.1,
            roles: row.2,
            is_alive: row.3,
            silent: seconds(row.4),
        };
        Ok(rows
            .into_iter()
            .map(|row| worker((row.id, row.host_id, row.roles, row.is_alive, row.silent)))
            .collect())
    }

    /// Leases whose worker is dead or has no row, and that nobody has rescued yet.
    pub async fn orphaned_leases(&self) -> Result<OrphanedLeases, StoreError> {
        let row = sqlx::query!(
            r#"-- orphaned_leases
            SELECT count(*) AS "jobs!",
                   coalesce(max(extract(epoch FROM clock_timestamp() - coalesce(w.renewed_at + w.ttl, l.claimed_at))), 0)::float8
                       AS "oldest!"
            FROM job_lease l LEFT JOIN worker w ON w.id = l.worker_id
            WHERE w.id IS NULL OR NOT clock_timestamp() BETWEEN w.renewed_at - w.ttl AND w.renewed_at + w.ttl"#
        )
        .fetch_one(self.once())
        .await?;
        Ok(OrphanedLeases { jobs: row.jobs, oldest: seconds(row.oldest) })
    }
}
