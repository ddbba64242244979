//! Sync calls that a client's library repeats by itself: the job of the first call is found and gets a new waiter.
//!
//! Must never find a job that ended, or that somebody asked to cancel.

use std::time::Duration;

use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::id::{ApiId, ClientId, JobId};
use crate::job::user_name::UserName;

/// How many of a client's newest jobs are looked at. A client that submits more than these in the time of a repeat is
/// better served by a second job than by a long look.
const REPEAT_SCAN: i64 = 10_000;

impl Store {
    /// The newest unfinished sync call of this client and user with exactly this path and body, if it was accepted `within` this
    /// time. Looks at all jobs that the client submitted in that time, so ask only where a repeat is likely.
    pub async fn repeat_of(
        &self,
        client: ClientId,
        user: &UserName,
        path: &str,
        body: &str,
        within: Duration,
    ) -> Result<Option<JobId>, StoreError> {
        // The client is given as a range for the reason that `find_jobs` gives.
        let found = sqlx::query_scalar!(
            r#"-- repeat_of
            SELECT j.id AS "id: JobId"
            FROM (SELECT * FROM job
                  WHERE client_id BETWEEN $1 AND $1 AND id >= ulid_floor(now() - make_interval(secs => $4))
                  ORDER BY client_id, id DESC LIMIT $5) AS j
            WHERE j.api_id IS NOT NULL AND j.path = $2 AND j.body = $3 AND j.user_name = $6
              AND NOT EXISTS (SELECT FROM job_done d WHERE d.job_id = j.id)
              AND NOT EXISTS (SELECT FROM job_lease l WHERE l.job_id = j.id AND l.cancel)
            ORDER BY j.id DESC LIMIT 1"#,
            client.uuid(),
            path,
            body,
            within.as_secs_f64(),
            REPEAT_SCAN,
            user.as_str(),
        )
        .fetch_optional(self.once_for(body.len() as u64))
        .await?;
        Ok(found)
    }

    /// Makes this api the one whose caller waits for a sync call. Returns false if the job has ended meanwhile, or if
    /// somebody asked to cancel it.
    pub async fn adopt(&self, job: JobId, api: ApiId) -> Result<bool, StoreError> {
        // Waits for a cancel of this job to commit: only the next statement can see it.
        sqlx::query!(
            "-- adopt
            UPDATE job SET api_id = $2 WHERE id = $1 AND api_id IS NOT NULL",
            job.uuid(),
            api.uuid(),
        )
        .execute(self.once())
        .await?;
        let is_adopted = sqlx::query_scalar!(
            r#"-- is_adopted
            SELECT EXISTS (SELECT FROM job WHERE id = $1 AND api_id IS NOT NULL)
               AND NOT EXISTS (SELECT FROM job_done d WHERE d.job_id = $1)
               AND NOT EXISTS (SELECT FROM job_lease l WHERE l.job_id = $1 AND l.cancel) AS "is_adopted!""#,
            job.uuid(),
        )
        .fetch_one(self.once())
        .await?;
        Ok(is_adopted)
    }
}
