//! Drops the leases of jobs whose requests are gone. These jobs get no outcome and no outbox row, because nobody
//! could read them.
//!
//! Must never drop the lease of a job whose request exists.

use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::db::wake::Write;
use crate::id::{JobId, WorkerId};

impl Store {
    /// Drops those leases of a worker whose requests are gone, deleted by hand or with the partition of their day:
    /// the worker has nothing to run, and no client could see an outcome. Returns the jobs.
    pub async fn drop_leases_without_request(&self, worker: WorkerId) -> Result<Vec<JobId>, StoreError> {
        let dropped = sqlx::query_scalar!(
            r#"-- drop_leases_without_request
            WITH gone AS MATERIALIZED (
                SELECT l.job_id FROM job_lease l
                WHERE l.worker_id = $1 AND NOT EXISTS (SELECT FROM job j WHERE j.id = l.job_id)
                ORDER BY l.job_id FOR UPDATE OF l
            )
            DELETE FROM job_lease l USING gone WHERE l.job_id = gone.job_id
            RETURNING l.job_id AS "job_id: JobId""#,
            worker.uuid(),
        )
        .fetch_all(self.once())
        .await?;
        if !dropped.is_empty() {
            self.tell([Write::LeaseDropped]);
        }
        Ok(dropped)
    }
}
