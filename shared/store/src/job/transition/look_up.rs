//! Finds out whether the jobs of a flush were accepted, when the flush got no answer.
//!
//! Must never say that a job is not in the queue while the flush may still put it there.

use chrono::{DateTime, Utc};

use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::db::wake::Write;
use crate::id::JobId;

/// Identifies jobs that were offered together, for a look-up afterwards. The default stands for a flush that ended
/// long ago.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flush {
    /// The transaction of the flush holds this advisory lock from its beginning to its end.
    pub(crate) lock: i64,
    /// Postgres does not begin the flush after this moment, by its own clock.
    pub(crate) until: DateTime<Utc>,
}

impl Store {
    /// Which of these jobs are in the queue, for a flush that got no answer. `None` while the flush may still end
    /// either way.
    ///
    /// A client that is told "not accepted" must not find the job done later. So the answer "none" waits for two
    /// things: the moment after which Postgres no longer begins the flush, and the lock that the flush holds until it
    /// ends.
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
        // A separate, later statement, because it needs a newer snapshot.
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
        // A flush accepts all of its jobs or none, so one found job is enough.
        Ok((is_over || !found.is_empty()).then_some(found))
    }
}
