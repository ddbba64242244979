//! A job as it is offered to the queue.

use chrono::{DateTime, Utc};

use crate::id::{ClientId, JobId};
use crate::job::state::JobState;

/// Where a job's webhooks go, and which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receiver {
    pub url: String,
    /// `scheme://host:port` of the URL: with the client, the lane.
    pub origin: String,
    /// `None` sends every state.
    pub events: Option<Vec<JobState>>,
}

/// The client's Idempotency-Key with the digest of the bytes it came with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    pub key: String,
    pub body_digest: [u8; 32],
}

/// How long an idempotency key holds its job.
pub(crate) const IDEMPOTENCY_HOURS: i32 = 24;

/// What a client asks for: everything that a second job which repeats the first one takes over from it. The times of a
/// job and its idempotency key are not here, because they belong to one job only.
#[derive(Debug, Clone)]
pub struct JobRequest {
    pub client: ClientId,
    /// The model as the client wrote it.
    pub model: String,
    /// The model as `/api/tags` names it.
    pub model_label: String,
    pub load_key: String,
    /// Ollama's route for it.
    pub path: String,
    /// The bytes that Ollama will get.
    pub body: String,
    pub priority: i16,
    /// `None` leaves it to the worker's own setting.
    pub max_attempts: Option<i16>,
    /// A JSON object as text.
    pub metadata: Option<String>,
    pub receiver: Option<Receiver>,
}

/// A job that has passed every check and may be accepted.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// From [`Clock::next_job_id`](crate::Clock::next_job_id).
    pub id: JobId,
    pub request: JobRequest,
    pub run_at: Option<DateTime<Utc>>,
    pub expires_at: DateTime<Utc>,
    pub retry_of: Option<JobId>,
    pub traceparent: Option<String>,
    pub idempotency: Option<IdempotencyKey>,
}
