//! How many jobs a client has waiting, and how many it may have.
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

/// A count of a client's waiting jobs, with the ceilings that the client has of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CountedBacklog {
    pub waiting: ClientBacklog,
    pub max_jobs: Option<u64>,
    pub max_bytes: Option<u64>,
}

impl Store {
    /// Counts a client's waiting jobs. Reads at most `enough` jobs of each room, or as many as the client's own ceiling
    /// allows, so that counting for a client far over its limit costs no more than for a client at its limit.
    pub async fn client_backlog(&self, client: ClientId, enough: u64) -> Result<CountedBacklog, StoreError> {
        let enough = i64::try_from(enough).unwrap_or(i64::MAX);
        let row = sqlx::query!(
            r#"-- client_backlog
            WITH own AS MATERIALIZED (
                SELECT (SELECT max_queued FROM client WHERE id = $1) AS max_jobs,
                       (SELECT max_queued_bytes FROM client WHERE id = $1) AS max_bytes
            ), enough AS MATERIALIZED (
                SELECT coalesce(max_jobs, $2) AS jobs FROM own
            )
            SELECT own.max_jobs, own.max_bytes, waiting.jobs AS "jobs!", waiting.bytes AS "bytes!"
            FROM own CROSS JOIN (
                SELECT count(*) AS jobs, coalesce(sum(bytes), 0)::bigint AS bytes
                FROM ((SELECT bytes FROM job_ready WHERE client_id = $1 LIMIT (SELECT jobs FROM enough))
                      UNION ALL
                      (SELECT bytes FROM job_scheduled WHERE client_id = $1 LIMIT (SELECT jobs FROM enough))) AS queue
            ) AS waiting"#,
            client.uuid(),
            enough,
        )
        .fetch_one(self.once())
        .await?;
        Ok(CountedBacklog {
            waiting: ClientBacklog { jobs: row.jobs.unsigned_abs(), bytes: row.bytes.unsigned_abs() },
            max_jobs: row.max_jobs.map(i64::unsigned_abs),
            max_bytes: row.max_bytes.map(i64::unsigned_abs),
        })
    }
}
