//! A job as it is offered to the queue, and what the queue answers.

use chrono::{DateTime, Utc};

use crate::{ClientId, JobId, JobState};

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

/// What became of a job offered to [`Store::accept`](crate::Store::accept).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acceptance {
    /// It is in the queue.
    Accepted(JobId),
    /// The key was used before with the same bytes, for this job.
    Replayed(JobId),
    /// The key was used before with other bytes.
    KeyReused,
    /// The key's earlier job went away while we looked; offer it again.
    KeyFreed,
}
