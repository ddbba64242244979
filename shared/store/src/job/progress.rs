//! How far jobs have come. One statement answers for all requests of an api that wait.
//!
//! Must never cost a statement per waiting request.

use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::id::{ClientId, JobId};

/// The latest transition of one job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub job: JobId,
    pub seq: i32,
    /// Whether a worker holds the job.
    pub is_held: bool,
    pub has_ended: bool,
}

impl Store {
    /// How far these jobs have come. Leaves out jobs that no longer exist.
    pub async fn progress(&self, jobs: &[(ClientId, JobId)]) -> Result<Vec<Progress>, StoreError> {
        let clients: Vec<_> = jobs.iter().map(|(client, _)| client.uuid()).collect();
        let ids: Vec<_> = jobs.iter().map(|(_, job)| job.uuid()).collect();
        let progress = sqlx::query_as!(
            Progress,
            r#"-- progress
            SELECT waited.job_id AS "job!: JobId", room.seq AS "seq!", room.is_held AS "is_held!",
                   room.has_ended AS "has_ended!"
            FROM unnest($1::uuid[], $2::uuid[]) AS waited (client_id, job_id)
            CROSS JOIN LATERAL (
                SELECT seq, false AS is_held, false AS has_ended FROM job_ready r
                WHERE r.client_id = waited.client_id AND r.job_id = waited.job_id
                UNION ALL
                SELECT seq, false, false FROM job_scheduled s
                WHERE s.client_id = waited.client_id AND s.job_id = waited.job_id
                UNION ALL
                SELECT seq, true, false FROM job_lease l WHERE l.job_id = waited.job_id
                UNION ALL
                SELECT seq, false, true FROM job_done d WHERE d.job_id = waited.job_id
            ) AS room"#,
            &clients,
            &ids,
        )
        .fetch_all(self.once())
        .await?;
        Ok(progress)
    }
}
