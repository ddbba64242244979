//! The proof of the first rule: each job stands in exactly one of the rooms ready, scheduled, lease and done.

use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::id::JobId;

/// A job that stands in no room or in several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misplaced {
    pub job_id: JobId,
    /// The rooms that have the job: none, or at least two.
    pub rooms: Vec<String>,
}

impl Store {
    /// At most `limit` jobs that break the rule. An empty answer proves the rule. It is one statement, because
    /// between two statements a job may move from a room not yet read to a room already read.
    pub async fn misplaced_jobs(&self, limit: i64) -> Result<Vec<Misplaced>, StoreError> {
        let rows = sqlx::query!(
            r#"-- misplaced_jobs
            SELECT job_id AS "job_id!", array_agg(room ORDER BY room) FILTER (WHERE room <> '') AS rooms
            FROM (SELECT id AS job_id, '' AS room FROM job
                  UNION ALL SELECT job_id, 'ready' FROM job_ready
                  UNION ALL SELECT job_id, 'scheduled' FROM job_scheduled
                  UNION ALL SELECT job_id, 'lease' FROM job_lease
                  UNION ALL SELECT job_id, 'done' FROM job_done) AS seen
            GROUP BY job_id
            HAVING count(*) <> 2 OR count(*) FILTER (WHERE room = '') <> 1
            LIMIT $1"#,
            limit,
        )
        .fetch_all(self.once())
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| Misplaced { job_id: row.job_id.into(), rooms: row.rooms.unwrap_or_default() })
            .collect())
    }
}
