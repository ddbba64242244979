//! Cancels jobs at a client's request, or because their callers are gone: a waiting job at once, a leased job through
//! its holder.
//!
//! Must never miss a job because it moves from one room to another meanwhile.

use std::collections::HashMap;

use uuid::Uuid;

use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::db::wake::Write;
use crate::id::{ApiId, ClientId, JobId};

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
    /// Another api has a caller that waits for the job.
    Adopted,
}

/// Jobs per statement. More of them would keep their locks for too long.
const CANCELS_PER_STATEMENT: usize = 500;

impl Store {
    /// Cancels a job in whichever room it stands.
    pub async fn cancel(&self, client: ClientId, job: JobId) -> Result<Cancelling, StoreError> {
        let answers = self.cancel_all(&[(client, job)], None).await?;
        answers.into_iter().next().ok_or(StoreError::Contended(sqlx::Error::RowNotFound))
    }

    /// Cancels jobs in whichever rooms they stand. With `waited_at`, the callers at these apis have gone: a job that another api
    /// has adopted meanwhile has a caller there, and is left alone. The answers stand in the given order.
    pub async fn cancel_all(
        &self,
        jobs: &[(ClientId, JobId)],
        waited_at: Option<&[ApiId]>,
    ) -> Result<Vec<Cancelling>, StoreError> {
        let waited_at = waited_at.map(|apis| apis.iter().map(|api| api.uuid()).collect::<Vec<_>>());
        let waited_at = waited_at.as_deref();
        let mut answers = HashMap::with_capacity(jobs.len());
        for batch in jobs.chunks(CANCELS_PER_STATEMENT) {
            self.cancel_batch(batch, waited_at, &mut answers).await?;
        }
        Ok(jobs.iter().map(|job| answers.get(job).copied().unwrap_or(Cancelling::Missing)).collect())
    }

    /// Tries one room after another, again and again, until each job was found: the snapshot of a statement cannot see
    /// the room that a job moves to at that moment. A job that does not exist gets no answer.
    async fn cancel_batch(
        &self,
        batch: &[(ClientId, JobId)],
        waited_at: Option<&[Uuid]>,
        answers: &mut HashMap<(ClientId, JobId), Cancelling>,
    ) -> Result<(), StoreError> {
        let mut sought = batch.to_vec();
        for _ in 0..CANCEL_ROUNDS {
            for found in self.cancel_waiting(&sought, waited_at).await? {
                answers.insert(found, Cancelling::Cancelled);
            }
            sought.retain(|job| !answers.contains_key(job));
            if sought.is_empty() {
                return Ok(());
            }
            for found in self.cancel_leased(&sought, waited_at).await? {
                answers.insert(found, Cancelling::Asked);
            }
            sought.retain(|job| !answers.contains_key(job));
            if sought.is_empty() {
                return Ok(());
            }
            sought = self.not_ended(&sought, waited_at, answers).await?;
            if sought.is_empty() {
                return Ok(());
            }
        }
        Err(StoreError::Contended(sqlx::Error::RowNotFound))
    }

    /// Ends those of the jobs that wait. Returns them. An api that adopts one of them waits for the lock on its request, and so
    /// adopts it before this statement or not at all.
    async fn cancel_waiting(
        &self,
        jobs: &[(ClientId, JobId)],
        waited_at: Option<&[Uuid]>,
    ) -> Result<Vec<(ClientId, JobId)>, StoreError> {
        let (clients, ids) = columns(jobs);
        let rows = sqlx::query!(
            r#"-- cancel_waiting
            WITH input AS MATERIALIZED (
                SELECT * FROM unnest($1::uuid[], $2::uuid[]) AS t (client_id, job_id)
            ), locked_ready AS MATERIALIZED (
                SELECT r.client_id, r.job_id FROM input i
                JOIN job_ready r ON r.client_id = i.client_id AND r.job_id = i.job_id
                JOIN job j ON j.id = i.job_id AND ($3::uuid[] IS NULL OR j.api_id = ANY($3))
                ORDER BY r.job_id FOR UPDATE OF r FOR SHARE OF j
            ), locked_scheduled AS MATERIALIZED (
                SELECT s.client_id, s.job_id FROM input i
                JOIN job_scheduled s ON s.client_id = i.client_id AND s.job_id = i.job_id
                JOIN job j ON j.id = i.job_id AND ($3::uuid[] IS NULL OR j.api_id = ANY($3))
                ORDER BY s.job_id FOR UPDATE OF s FOR SHARE OF j
            ), ready AS (
                DELETE FROM job_ready r USING locked_ready l WHERE r.client_id = l.client_id AND r.job_id = l.job_id
                RETURNING r.job_id, r.client_id, r.load_key, r.user_name, r.seq + 1 AS seq, r.attempt, r.failures,
                          r.rescues, r.eligible_at
            ), scheduled AS (
                DELETE FROM job_scheduled s USING locked_scheduled l
                WHERE s.client_id = l.client_id AND s.job_id = l.job_id
                RETURNING s.job_id, s.client_id, s.load_key, s.user_name, s.seq + 1 AS seq, s.attempt, s.failures,
                          s.rescues, s.eligible_at
            ), gone AS MATERIALIZED (
                SELECT *, clock_timestamp() AS at FROM (TABLE ready UNION ALL TABLE scheduled) AS waiting
            ), ended AS (
                INSERT INTO job_done (job_id, client_id, state, seq, attempt, failures, rescues, eligible_at, completed_at)
                SELECT job_id, client_id, 'cancelled', seq, attempt, failures, rescues, eligible_at, at FROM gone
            ), used AS (
                INSERT INTO usage_entry (hour, client_id, user_name, model, cancelled)
                SELECT date_trunc('hour', at, 'UTC'), client_id, user_name, split_part(load_key, ' ', 1), count(*)
                FROM gone GROUP BY 1, 2, 3, 4
            ), noted AS (
                INSERT INTO outbox (job_id, seq, attempt, state, previous_state, at)
                SELECT job_id, seq, attempt, 'cancelled', 'queued', at FROM gone ORDER BY job_id
            )
            SELECT client_id AS "client!: ClientId", job_id AS "job!: JobId" FROM gone"#,
            &clients,
            &ids,
            waited_at,
        )
        .fetch_all(self.once())
        .await?;
        if !rows.is_empty() {
            self.tell([Write::EndedUnclaimed]);
        }
        Ok(rows.into_iter().map(|row| (row.client, row.job)).collect())
    }

    /// Marks those of the jobs that workers hold. Returns them.
    async fn cancel_leased(
        &self,
        jobs: &[(ClientId, JobId)],
        waited_at: Option<&[Uuid]>,
    ) -> Result<Vec<(ClientId, JobId)>, StoreError> {
        let (clients, ids) = columns(jobs);
        let rows = sqlx::query!(
            r#"-- cancel_leased
            WITH locked AS MATERIALIZED (
                SELECT l.job_id FROM unnest($1::uuid[], $2::uuid[]) AS i (client_id, job_id)
                JOIN job_lease l ON l.job_id = i.job_id AND l.client_id = i.client_id
                JOIN job j ON j.id = i.job_id AND ($3::uuid[] IS NULL OR j.api_id = ANY($3))
                ORDER BY l.job_id FOR UPDATE OF l FOR SHARE OF j
            )
            UPDATE job_lease l SET cancel = true FROM locked k WHERE l.job_id = k.job_id
            RETURNING l.client_id AS "client: ClientId", l.job_id AS "job: JobId""#,
            &clients,
            &ids,
            waited_at,
        )
        .fetch_all(self.once())
        .await?;
        if !rows.is_empty() {
            self.tell([Write::CancelAsked]);
        }
        Ok(rows.into_iter().map(|row| (row.client, row.job)).collect())
    }

    /// Answers for those of the jobs that have ended or were adopted. Returns those that were between two rooms, without those
    /// that their client does not have.
    async fn not_ended(
        &self,
        jobs: &[(ClientId, JobId)],
        waited_at: Option<&[Uuid]>,
        answers: &mut HashMap<(ClientId, JobId), Cancelling>,
    ) -> Result<Vec<(ClientId, JobId)>, StoreError> {
        let (clients, ids) = columns(jobs);
        let rows = sqlx::query!(
            r#"-- have_ended
            SELECT j.client_id AS "client: ClientId", j.id AS "job: JobId",
                   EXISTS (SELECT FROM job_done d WHERE d.job_id = j.id) AS "ended!",
                   ($3::uuid[] IS NULL OR j.api_id = ANY($3)) IS NOT TRUE AS "adopted!"
            FROM unnest($1::uuid[], $2::uuid[]) AS i (client_id, job_id)
            JOIN job j ON j.id = i.job_id AND j.client_id = i.client_id"#,
            &clients,
            &ids,
            waited_at,
        )
        .fetch_all(self.once())
        .await?;
        let mut moving = Vec::new();
        for row in rows {
            let job = (row.client, row.job);
            if row.ended {
                answers.insert(job, Cancelling::Ended);
            } else if row.adopted {
                answers.insert(job, Cancelling::Adopted);
            } else {
                moving.push(job);
            }
        }
        Ok(moving)
    }
}

fn columns(jobs: &[(ClientId, JobId)]) -> (Vec<Uuid>, Vec<Uuid>) {
    jobs.iter().map(|(client, job)| (client.uuid(), job.uuid())).unzip()
}
