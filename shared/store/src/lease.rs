//! The right to run a job: how it is asked for, what comes with it, and the ways to let go of it.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::{ClientId, JobId, JobState, LeaseNo, WorkerId};

/// What a claim may take from one client at one priority: offers are served in the order given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    pub client: ClientId,
    pub priority: i16,
    /// No claimable job of this client and priority has a smaller id: skips the entries of jobs long gone.
    pub lower_bound: JobId,
    pub at_most: i32,
}

/// Who claims: a live worker that holds the host, proved by the fence number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub worker: WorkerId,
    pub host: String,
    pub fence: i64,
}

/// The right to run a job and to say what became of it. It is consumed by the write that ends it.
#[derive(Debug, PartialEq, Eq)]
pub struct Lease {
    pub job_id: JobId,
    pub no: LeaseNo,
}

/// A claimed job with all that is needed to run it, but for a large body.
#[derive(Debug)]
pub struct Claimed {
    pub lease: Lease,
    pub client: ClientId,
    pub attempt: i32,
    pub failures: i16,
    /// `None` leaves it to the worker's own setting.
    pub max_attempts: Option<i16>,
    pub priority: i16,
    pub load_key: String,
    pub model_label: String,
    pub path: String,
    /// The size of the body.
    pub bytes: u32,
    /// `None` for a large one: [`Store::job_body`](crate::Store::job_body) reads it.
    pub body: Option<String>,
    /// Whether the claim has recorded that it begins.
    pub begun: bool,
    pub traceparent: Option<String>,
    pub eligible_at: DateTime<Utc>,
}

/// What a holder finds when it records that it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// The phase is written (or was already, under this number).
    Go,
    /// Somebody asked for its cancelling: settle it as cancelled.
    Cancelled,
    /// Its time has passed before it began: settle it as expired.
    Expired,
    /// The lease is not this holder's any more: let go without a word.
    Stale,
}

/// How a holder lets go of a job.
#[derive(Debug)]
pub enum Exit {
    Done(Completion),
    Failed(Reason),
    /// Once more after `wait`, one failure counted.
    Retry {
        reason: Reason,
        wait: Duration,
    },
    /// To the queue at once, nothing counted.
    HandBack {
        reason: Reason,
    },
    Cancelled,
    Expired,
}

impl Exit {
    /// How many bytes it carries to Postgres, but for a few.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Done(done) => done.completion.len(),
            _ => 0,
        }
    }
}

/// Why a job failed or goes back: a sentence for people and a stable code for programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    pub error: String,
    pub code: String,
}

/// What a successful run brought.
#[derive(Debug)]
pub struct Completion {
    /// The bytes that Ollama would have answered unstreamed.
    pub completion: Vec<u8>,
    pub prompt_tokens: Option<i64>,
    pub completion_tokens: Option<i64>,
}

/// What became of one settled lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It left the lease for this state; a cancel asked for meanwhile wins over all but a success.
    Into(JobState),
    /// It had been written before under the same number: the answer to an earlier COMMIT was lost.
    Already,
    /// The lease is gone to another: the outcome is stopped here. To be counted.
    Stale,
}
