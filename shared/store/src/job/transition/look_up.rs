//! Finds out what became of a flush of jobs whose answer was lost.
//!
//! Must never say that a job is not in the queue while the flush may still put it there.

use chrono::{DateTime, Utc};

use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::db::wake::Write;
use crate::id::JobId;

/// What is asked for later of jobs that were offered together. The default is one that ended long ago.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flush {
    /// Held by its transaction from the first to the last.
    pub(crate) lock: i64,
    /// Postgres begins it no later than this, by its own clock.
    pub(crate) until: DateTime<Utc>,
}

impl Store {
    /// Which of these jobs of a flush whose answer was lost are in the queue; `None` while that may still change.
    ///
    /// Whoever is told "no" may not find the job done later. So this waits for the moment after which Postgres begins
    /// the flush no more, and for the lock that the flush holds until it has ended.
    pub async fn look_up(&self, flush: &Flush, ids: &[JobId]) -> Result<Option<Vec<JobId>>, StoreError> {
        let ids: Vec<_> = ids.iter().map(|id| id.uuid()).collect();
        let mut conn = self.open().await?;
        let is_over = sqlx::query_scalar!(
            r#"-- flush_is_over
            SELECT CASE WHEN clock_timestamp() > $2 THEN pg_try_advisory_xact_lock($1) ELSE false END AS "is_over!""#,
            flush.lock,
            flush.until,
        )
        .fetch_one(&mut conn)
        .await?;
        // Asked after that, by a snapshot of its own.
        let found = sqlx::query_scalar!(
            r#"-- accepted
            SELECT j.id AS "id: JobId" FROM unnest($1::uuid[]) AS wanted (id)
            CROSS JOIN LATERAL (SELECT id FROM job WHERE id = wanted.id LIMIT 1) AS j"#,
            &ids
        )
        .fetch_all(&mut conn)
        .await?;
        conn.done().await?;
        if !found.is_empty() {
            self.tell([Write::AcceptedForLater]);
        }
        // A flush goes in as a whole.
        Ok((is_over || !found.is_empty()).then_some(found))
    }
}
