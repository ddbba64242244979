//! Worker processes: that they live, and which leases they hold.
//!
//! Must never decide by Postgres' clock whether a worker lives.

use std::time::{Duration, SystemTime};

use crate::db::clock::seconds;
use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::db::wake::Write;
use crate::fleet::heartbeat::Heartbeat;
use crate::id::{JobId, LeaseNo, WorkerId};
use crate::job::lease::{Holder, Lease};
use crate::job::state::Phase;

/// What a renewal still found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renewal {
    /// The worker's row. If it is gone, other workers have taken its leases.
    pub lives: bool,
    /// The hold on its host, which was renewed too.
    pub holds_host: bool,
}

/// A lease as its holder finds it in Postgres.
#[derive(Debug, PartialEq, Eq)]
pub struct OwnLease {
    pub lease: Lease,
    pub phase: Phase,
    /// The model as `/api/tags` names it.
    pub model_label: String,
}

impl Store {
    /// Records that a worker lives. It counts as alive until it has not renewed for `ttl`. Apis read its live answers at
    /// `stream_url`. Safe to repeat.
    pub async fn register_worker(
        &self,
        worker: WorkerId,
        host: &str,
        roles: &[&str],
        ttl: Duration,
        stream_url: Option<&str>,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            r#"-- register_worker
            INSERT INTO worker (id, host_id, roles, ttl, stream_url, started_at, renewed_at)
            VALUES ($1, $2, $3, make_interval(secs => $4), $5, clock_timestamp(), clock_timestamp())
            ON CONFLICT (id) DO UPDATE SET renewed_at = excluded.renewed_at"#,
            worker.uuid(),
            host,
            roles as &[&str],
            ttl.as_secs_f64(),
            stream_url,
        )
        .execute(self.once())
        .await?;
        Ok(())
    }

    /// Renews a worker's row, and its hold on `holder`'s host if it still has it. Also learns Postgres' time from the
    /// answer.
    pub async fn renew_worker(
        &self,
        worker: WorkerId,
        holder: Option<&Holder>,
    ) -> Result<Renewal, StoreError> {
        let mut conn = self.open().await?;
        let asked = SystemTime::now();
        let row = sqlx::query!(
            r#"-- renew_worker
            WITH alive AS (
                UPDATE worker SET renewed_at = clock_timestamp() WHERE id = $1 RETURNING id
            ), held AS (
                UPDATE host h SET renewed_at = clock_timestamp() FROM alive
                WHERE h.id = $2 AND h.holder = alive.id AND h.fence = $3
                RETURNING h.id
            )
            SELECT EXISTS (SELECT FROM alive) AS "lives!", EXISTS (SELECT FROM held) AS "holds_host!",
                   clock_timestamp() AS "now!""#,
            worker.uuid(),
            holder.map(|holder| holder.host.as_str()),
            holder.map(|holder| holder.fence),
        )
        .fetch_one(&mut conn)
        .await?;
        self.clock().learn(asked, row.now);
        conn.done().await?;
        Ok(Renewal { lives: row.lives, holds_host: row.holds_host })
    }

    /// Every worker that has a row, as the row is now.
    pub async fn heartbeats(&self) -> Result<Vec<Heartbeat<WorkerId>>, StoreError> {
        let rows = sqlx::query!(
            r#"-- heartbeats
            SELECT id AS "id: WorkerId", renewed_at, extract(epoch FROM ttl)::float8 AS "ttl!" FROM worker"#
        )
        .fetch_all(self.once())
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| Heartbeat { id: row.id, renewed_at: row.renewed_at, ttl: seconds(row.ttl) })
            .collect())
    }

    /// Deletes the row of a worker that stops. Any lease that it still holds may then be rescued at once.
    pub async fn deregister_worker(&self, worker: WorkerId) -> Result<(), StoreError> {
        sqlx::query!(
            "-- deregister_worker
            DELETE FROM worker WHERE id = $1",
            worker.uuid()
        )
        .execute(self.once())
        .await?;
        self.tell([Write::HostFreed]);
        Ok(())
    }

    /// The leases of a worker. It may not know all of them, because the answer to a claim may have been lost.
    pub async fn own_leases(&self, worker: WorkerId) -> Result<Vec<OwnLease>, StoreError> {
        let rows = sqlx::query!(
            r#"-- own_leases
            SELECT l.job_id AS "job_id: JobId", l.lease_no AS "lease_no: LeaseNo", l.phase AS "phase: Phase",
                   j.model_label
            FROM job_lease l JOIN job j ON j.id = l.job_id
            WHERE l.worker_id = $1 ORDER BY l.lease_no"#,
            worker.uuid(),
        )
        .fetch_all(self.once())
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| OwnLease {
                lease: Lease { job_id: row.job_id, no: row.lease_no },
                phase: row.phase,
                model_label: row.model_label,
            })
            .collect())
    }

    /// Those leases of a worker that somebody asked to cancel.
    pub async fn cancelled_leases(&self, worker: WorkerId) -> Result<Vec<LeaseNo>, StoreError> {
        let numbers = sqlx::query_scalar!(
            r#"-- cancelled_leases
            SELECT lease_no AS "lease_no: LeaseNo" FROM job_lease WHERE worker_id = $1 AND cancel"#,
            worker.uuid(),
        )
        .fetch_all(self.once())
        .await?;
        Ok(numbers)
    }
}
