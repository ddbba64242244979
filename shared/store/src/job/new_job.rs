//! A job as the api offers it to the queue.

use chrono::{DateTime, Utc};

use crate::id::{ApiId, ClientId, JobId};
use crate::job::user_name::UserName;
use crate::webhook::receiver::JobReceiver;

/// The client's `Idempotency-Key`, with the digest of the body it came with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    pub key: String,
    pub body_digest: [u8; 32],
}

/// How long a repeated submission under one idempotency key is answered with the first job.
pub(crate) const IDEMPOTENCY_HOURS: i32 = 24;

/// What a client asks for. A retry of an ended job copies all of it. The job's times, its idempotency key and the api
/// that waits for it are not part of it, because they belong to one job only.
#[derive(Debug, Clone)]
pub struct JobRequest {
    pub client: ClientId,
    /// For whom the client asks.
    pub user: UserName,
    /// The model as the client wrote it.
    pub model: String,
    /// The model as `/api/tags` names it.
    pub model_label: String,
    pub load_key: String,
    /// Ollama's route for the job.
    pub path: String,
    /// The bytes that Ollama will get.
    pub body: String,
    pub priority: i16,
    /// `None` uses the worker's setting.
    pub max_attempts: Option<i16>,
    /// A JSON object as text.
    pub metadata: Option<String>,
    pub receiver: Option<JobReceiver>,
}

/// A job that has passed every check and may be accepted.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// From [`Clock::next_job_id`](crate::Clock::next_job_id).
    pub id: JobId,
    pub request: JobRequest,
    /// The api process whose caller waits for the answer: the job is a sync call. `None` for a job that nobody waits for.
    pub api: Option<ApiId>,
    pub run_at: Option<DateTime<Utc>>,
    pub expires_at: DateTime<Utc>,
    pub retry_of: Option<JobId>,
    pub traceparent: Option<String>,
    pub idempotency: Option<IdempotencyKey>,
}
