//! A job as it is offered to the queue, and what the queue answers.

use chrono::{DateTime, Utc};

use crate::{ClientId, JobId, JobState, StoreError};

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
    /// Its key was taken, but who holds it went away while we looked, or could not be read.
    OfferAgain,
}

/// Why jobs offered to [`Store::accept`](crate::Store::accept) have no answer each.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// None of them is in the queue, nor will be.
    #[error(transparent)]
    Not(StoreError),
    /// The same: Postgres got them so late, by its own clock, that they may have been given up by then.
    #[error(
        "Postgres got the jobs too late to take them; if that happens again, look at its clock and at the line to it"
    )]
    Late,
    /// They may be in the queue, or be there in a moment. [`Store::look_up`](crate::Store::look_up) tells.
    #[error("Postgres gave no answer about the jobs")]
    Unknown {
        #[source]
        error: StoreError,
        flush: Flush,
    },
}

/// What is asked for later of jobs that were offered together. The default is one that ended long ago.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flush {
    /// Held by its transaction from the first to the last.
    pub(crate) lock: i64,
    /// Postgres begins it no later than this, by its own clock.
    pub(crate) until: DateTime<Utc>,
}
