//! How many jobs a client has waiting.
//!
//! Must never read a whole long queue.

use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::id::ClientId;

/// A client's waiting jobs, ready and scheduled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClientBacklog {
    pub jobs: u64,
    /// Bytes of their request bodies.
    pub bytes: u64,
}

impl Store {
    /// Counts a client's waiting jobs. Reads at most `enough` jobs of each room, so that counting for a client far
    /// over its limit costs no more than for a client at its limit.
    pub async fn client_backlog(&self, client: ClientId, enough: u64) -> Result<ClientBacklog, StoreError> {
        let enough = i64::try_from(enough).unwrap_or(i64::MAX);
        let row = sqlx::query!(
            r#"-- client_backlog
            SELECT count(*) AS "jobs!", coalesce(sum(bytes), 0)::bigint AS "bytes!"
            FROM ((SELECT bytes FROM job_ready WHERE client_id = $1 LIMIT $2)
                  UNION ALL
                  (SELECT bytes FROM job_scheduled WHERE client_id = $1 LIMIT $2)) AS waiting"#,
            client.uuid(),
            enough,
        )
        .fetch_one(self.once())
        .await?;
        Ok(ClientBacklog { jobs: row.jobs.unsigned_abs(), bytes: row.bytes.unsigned_abs() })
    }
}
