//! Where apis read live answers: the address of each worker, and the worker that has a job.
//!
//! Must never show one client the job of another.

use crate::client::scope::Scope;
use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::id::{JobId, WorkerId};
use crate::job::state::Phase;

/// Where a worker gives out live answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamAddress {
    pub worker: WorkerId,
    pub host: String,
    pub url: String,
}

/// Where a leased job is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseAddress {
    /// Where its worker gives out live answers. `None` if that worker gives none, or has no row any more.
    pub url: Option<String>,
    pub attempt: i32,
    pub phase: Phase,
}

impl Store {
    /// The addresses of all workers that give out live answers, dead workers included, always in the same order.
    pub async fn stream_addresses(&self) -> Result<Vec<StreamAddress>, StoreError> {
        let addresses = sqlx::query_as!(
            StreamAddress,
            r#"-- stream_addresses
            SELECT id AS "worker: WorkerId", host_id AS host, stream_url AS "url!"
            FROM worker WHERE stream_url IS NOT NULL ORDER BY id"#
        )
        .fetch_all(self.once())
        .await?;
        Ok(addresses)
    }

    /// Where a job is. `None` if no worker holds it.
    pub async fn place_of(&self, scope: Scope, job: JobId) -> Result<Option<LeaseAddress>, StoreError> {
        let place = sqlx::query_as!(
            LeaseAddress,
            r#"-- place_of
            SELECT w.stream_url AS "url?", l.attempt, l.phase AS "phase: Phase"
            FROM job_lease l LEFT JOIN worker w ON w.id = l.worker_id
            WHERE l.job_id = $1 AND ($2::uuid IS NULL OR l.client_id = $2)"#,
            job.uuid(),
            scope.client(),
        )
        .fetch_optional(self.once())
        .await?;
        Ok(place)
    }
}
