//! What was asked of a stored job: to run it, to make another job like it, or to answer a repeated submission.

use crate::client::scope::Scope;
use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::id::{ClientId, JobId};
use crate::job::new_job::{IdempotencyKey, JobRequest};
use crate::job::transition::accept::Acceptance;
use crate::job::user_name::UserName;
use crate::webhook::receiver::JobReceiver;

/// What is known of a stored request before its body is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestSize {
    pub bytes: u32,
    /// Whether the job has ended.
    pub has_ended: bool,
}

impl Store {
    /// The size of the request's body, without reading the body.
    pub async fn request_size(&self, scope: Scope, job: JobId) -> Result<Option<RequestSize>, StoreError> {
        let row = sqlx::query!(
            r#"-- request_size
            SELECT octet_length(body) AS "bytes!", EXISTS (SELECT FROM job_done WHERE job_id = $1) AS "has_ended!"
            FROM job WHERE id = $1 AND ($2::uuid IS NULL OR client_id = $2)"#,
            job.uuid(),
            scope.client(),
        )
        .fetch_optional(self.once())
        .await?;
        Ok(row.map(|row| RequestSize { bytes: row.bytes.unsigned_abs(), has_ended: row.has_ended }))
    }

    /// The request of this job; `bytes` is the size of its body.
    pub async fn request(
        &self,
        scope: Scope,
        job: JobId,
        bytes: u32,
    ) -> Result<Option<JobRequest>, StoreError> {
        let row = sqlx::query!(
            r#"-- request
            SELECT j.client_id AS "client: ClientId", j.model, j.model_label, j.load_key, j.path, j.body, j.priority,
                   j.max_attempts, j.metadata, j.webhook_url, j.webhook_origin, j.webhook_events,
                   j.user_name AS "user: UserName"
            FROM job j WHERE j.id = $1 AND ($2::uuid IS NULL OR j.client_id = $2)"#,
            job.uuid(),
            scope.client(),
        )
        .fetch_optional(self.once_for(bytes.into()))
        .await?;
        Ok(row.map(|row| JobRequest {
            client: row.client,
            user: row.user,
            model: row.model,
            model_label: row.model_label,
            load_key: row.load_key,
            path: row.path,
            body: row.body,
            priority: row.priority,
            max_attempts: row.max_attempts,
            metadata: row.metadata,
            receiver: JobReceiver::from_columns(row.webhook_url, row.webhook_origin, row.webhook_events),
        }))
    }

    /// The body that Ollama gets for this job, if the claim did not bring the body; `bytes` is its size. `None` if
    /// the job is gone.
    pub async fn job_body(&self, job: JobId, bytes: u32) -> Result<Option<String>, StoreError> {
        let body = sqlx::query_scalar!(
            "-- job_body
            SELECT body FROM job WHERE id = $1",
            job.uuid(),
        )
        .fetch_optional(self.once_for(bytes.into()))
        .await?;
        Ok(body)
    }
}

impl Store {
    /// The job that an idempotency key was first used for, while the key is valid.
    pub async fn key_holder(
        &self,
        client: ClientId,
        key: &IdempotencyKey,
    ) -> Result<Option<Acceptance>, StoreError> {
        let holder = sqlx::query!(
            r#"-- key_holder
            SELECT job_id AS "job_id: JobId", body_digest FROM idempotency_key
            WHERE client_id = $1 AND key = $2 AND expires_at > now()"#,
            client.uuid(),
            key.key,
        )
        .fetch_optional(self.once())
        .await?;
        Ok(holder.map(|row| {
            if row.body_digest == key.body_digest {
                Acceptance::Replayed(row.job_id)
            } else {
                Acceptance::KeyReused
            }
        }))
    }
}
