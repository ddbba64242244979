//! Drained hosts: nothing new is claimed for them, and the jobs that run there end. The mark is in the host's row, so it
//! outlives restarts of workers and every change of holder.
//!
//! Must never let a claim pass that commits after its drain.

use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::db::wake::Write;

impl Store {
    /// Drains a host. Once this returns, no claim brings a job there any more. A host that is drained already stays as it
    /// is. Returns whether there is such a host.
    pub async fn drain_host(&self, host: &str) -> Result<bool, StoreError> {
        // A claim keeps a key-share lock on this row until it commits. FOR UPDATE waits for that, and later claims wait for
        // this and read the mark.
        let drained = sqlx::query!(
            r#"-- drain_host
            WITH locked AS MATERIALIZED (SELECT id FROM host WHERE id = $1 FOR UPDATE)
            UPDATE host h SET drained_at = coalesce(h.drained_at, clock_timestamp())
            FROM locked WHERE h.id = locked.id"#,
            host,
        )
        .execute(self.once())
        .await?;
        self.tell([Write::DrainChanged]);
        Ok(drained.rows_affected() > 0)
    }

    /// Lets a host take jobs again. Returns whether there is such a host.
    pub async fn resume_host(&self, host: &str) -> Result<bool, StoreError> {
        let resumed = sqlx::query!(
            r#"-- resume_host
            UPDATE host SET drained_at = NULL WHERE id = $1"#,
            host,
        )
        .execute(self.once())
        .await?;
        self.tell([Write::DrainChanged]);
        Ok(resumed.rows_affected() > 0)
    }

    /// Whether a host is drained. One that no worker has held yet is not.
    pub async fn is_drained(&self, host: &str) -> Result<bool, StoreError> {
        let drained = sqlx::query_scalar!(
            r#"-- is_drained
            SELECT drained_at IS NOT NULL AS "drained!" FROM host WHERE id = $1"#,
            host,
        )
        .fetch_optional(self.once())
        .await?;
        Ok(drained.unwrap_or(false))
    }

    /// How many hosts are drained.
    pub async fn drained_hosts(&self) -> Result<i64, StoreError> {
        let count = sqlx::query_scalar!(
            r#"-- drained_hosts
            SELECT count(*) AS "count!" FROM host WHERE drained_at IS NOT NULL"#
        )
        .fetch_one(self.once())
        .await?;
        Ok(count)
    }
}
