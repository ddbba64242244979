//! Cancels a job at a client's request: a waiting job at once, a leased job through its holder.
//!
//! Must never miss a job because it moves from one room to another meanwhile.

use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::db::wake::Write;
use crate::id::{ClientId, JobId};

/// Between two rooms a job is out of sight for one commit at most. A cancel that misses the job this often points to
/// a defect.
const CANCEL_ROUNDS: usize = 100;

/// What a request to cancel found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelling {
    /// The job was waiting and is cancelled now.
    Cancelled,
    /// A worker holds the job and has been asked to cancel it.
    Asked,
    /// The job had ended before.
    Ended,
    /// The client has no such job.
    Missing,
}

impl Store {
    /// Cancels a job in whichever room it stands. Tries one room after another, again and again, until one statement
    /// finds the job: the snapshot of a statement cannot see the room that the job moves to at that moment.
    pub async fn cancel(&self, client: ClientId, job: JobId) -> Result<Cancelling, StoreError> {
        for _ in 0..CANCEL_ROUNDS {
            if self.cancel_waiting(client, job).await? {
                return Ok(Cancelling::Cancelled);
            }
            if self.cancel_leased(client, job).await? {
                return Ok(Cancelling::Asked);
            }
            match self.has_ended(client, job).await? {
                Some(true) => return Ok(Cancelling::Ended),
                Some(false) => {}
                None => return Ok(Cancelling::Missing),
            }
        }
        Err(StoreError::Contended(sqlx::Error::RowNotFound))
    }

    async fn cancel_waiting(&self, client: ClientId, job: JobId) -> Result<bool, StoreError> {
        let hit = sqlx::query!(
            r#"-- cancel_waiting
            WITH ready AS (
                DELETE FROM job_ready WHERE client_id = $1 AND job_id = $2
                RETURNING job_id, client_id, seq + 1 AS seq, attempt, failures, rescues, eligible_at
            ), scheduled AS (
                DELETE FROM job_scheduled WHERE client_id = $1 AND job_id = $2
                RETURNING job_id, client_id, seq + 1 AS seq, attempt, failures, rescues, eligible_at
            ), gone AS MATERIALIZED (
                SELECT *, clock_timestamp() AS at FROM (TABLE ready UNION ALL TABLE scheduled) AS waiting
            ), ended AS (
                INSERT INTO job_done (job_id, client_id, state, seq, attempt, failures, rescues, eligible_at, completed_at)
                SELECT job_id, client_id, 'cancelled', seq, attempt, failures, rescues, eligible_at, at FROM gone
            )
            INSERT INTO outbox (job_id, seq, attempt, state, previous_state, at)
            SELECT job_id, seq, attempt, 'cancelled', 'queued', at FROM gone"#,
            client.uuid(),
            job.uuid(),
        )
        .execute(self.once())
        .await?;
        let hit = hit.rows_affected() > 0;
        if hit {
            self.tell([Write::EndedUnclaimed]);
        }
        Ok(hit)
    }

    async fn cancel_leased(&self, client: ClientId, job: JobId) -> Result<bool, StoreError> {
        let hit = sqlx::query!(
            "-- cancel_leased
            UPDATE job_lease SET cancel = true WHERE job_id = $1 AND client_id = $2",
            job.uuid(),
            client.uuid(),
        )
        .execute(self.once())
        .await?;
        let hit = hit.rows_affected() > 0;
        if hit {
            self.tell([Write::CancelAsked]);
        }
        Ok(hit)
    }

    /// Whether the job has ended, or `None` if this client has no such job.
    async fn has_ended(&self, client: ClientId, job: JobId) -> Result<Option<bool>, StoreError> {
        let ended = sqlx::query_scalar!(
            r#"-- has_ended
            SELECT EXISTS (SELECT FROM job_done d WHERE d.job_id = j.id) AS "ended!"
            FROM job j WHERE j.id = $1 AND j.client_id = $2"#,
            job.uuid(),
            client.uuid(),
        )
        .fetch_optional(self.once())
        .await?;
        Ok(ended)
    }
}
