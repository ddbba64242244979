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

/// A job that has been parsed and may be accepted.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// From [`Clock::next_job_id`](crate::Clock::next_job_id).
    pub id: JobId,
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
    pub run_at: Option<DateTime<Utc>>,
    pub expires_at: DateTime<Utc>,
    pub retry_of: Option<JobId>,
    pub traceparent: Option<String>,
    pub idempotency: Option<IdempotencyKey>,
}
