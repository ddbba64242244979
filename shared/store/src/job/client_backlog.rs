//! How much a client has waiting.

use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::id::ClientId;

/// What waits in the two rooms before a claim.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClientBacklog {
    pub jobs: u64,
    /// Bytes of their request bodies.
    pub bytes: u64,
}

impl Store {
    /// Counts a client's waiting jobs. Each room is read no further than `enough` jobs, so that the count of a client
    /// far past a limit costs no more than that of one at it.
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
