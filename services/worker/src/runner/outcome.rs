//! How an attempt ended, and what is to become of the job: the one place that decides between again and never.

use std::time::Duration;

use foreman_ollama::{Failure, Joined};
use foreman_store::{Completion, Exit, Reason};

/// The waits before a job is tried again, by how often it has failed; the last goes on.
const BACKOFF: [Duration; 4] =
    [Duration::from_secs(2), Duration::from_secs(10), Duration::from_secs(60), Duration::from_secs(5 * 60)];

/// How an attempt ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    Done(Joined),
    /// It failed, and may succeed another time.
    Again(Reason),
    /// It failed, and would again.
    Failed(Reason),
    /// Not the job's trouble: back to the queue, nothing counted. Ollama cannot be reached, or something else answers in its
    /// place. `under_it` says that this job may be the cause: Ollama answered before it, or still answers other requests.
    HostAway {
        reason: Reason,
        under_it: bool,
    },
    /// Ollama does not have the model any more.
    ModelGone(Reason),
    Aborted(Abort),
    /// Somebody had asked for its cancelling before it began.
    Cancelled,
    /// Its time had passed before it began.
    Expired,
    /// The lease was another's already: there is nothing to say.
    Stale,
}

/// Why an attempt was stopped from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Abort {
    Cancelled,
    /// The process may be taken for dead by now.
    Fenced,
    /// The grace is nearly over.
    Stopping,
}

/// What counts for a job's fate beside the outcome.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record {
    /// Failures before this attempt.
    pub failures: i16,
    pub max_attempts: i16,
}

impl Outcome {
    /// The way out of the lease, or nothing if that is another's.
    pub(crate) fn exit(self, record: Record) -> Option<Exit> {
        Some(match self {
            Self::Done(joined) => Exit::Done(completion(joined)),
            Self::Again(reason) if record.failures + 1 >= record.max_attempts => Exit::Failed(reason),
            Self::Again(reason) => Exit::Retry { reason, wait: backoff(record.failures) },
            Self::Failed(reason) => Exit::Failed(reason),
            Self::HostAway { reason, .. } | Self::ModelGone(reason) => Exit::HandBack { reason },
            Self::Aborted(Abort::Cancelled) | Self::Cancelled => Exit::Cancelled,
            Self::Aborted(abort) => Exit::HandBack { reason: abort.reason() },
            Self::Expired => Exit::Expired,
            Self::Stale => return None,
        })
    }
}

impl Abort {
    fn reason(self) -> Reason {
        match self {
            Self::Cancelled => reason("cancelled", "it was cancelled"),
            Self::Fenced => reason("worker_fenced", "the worker that ran it was cut off from Postgres"),
            Self::Stopping => reason("worker_stopped", "the worker that ran it was stopped"),
        }
    }
}

/// The reason that a failure gives its job.
pub(crate) fn reason_of(failure: &Failure) -> Reason {
    reason(failure.code(), &failure.to_string())
}

/// A reason that Postgres can keep: its texts hold no NUL, and Ollama's may.
pub(crate) fn reason(code: &str, error: &str) -> Reason {
    Reason { code: code.to_owned(), error: error.replace('\0', "\u{fffd}") }
}

fn backoff(failures_before: i16) -> Duration {
    let nth = usize::try_from(failures_before).unwrap_or(0);
    BACKOFF[nth.min(BACKOFF.len() - 1)]
}

fn completion(joined: Joined) -> Completion {
    let count = |tokens: u64| i64::try_from(tokens).ok();
    Completion {
        prompt_tokens: count(joined.metrics.prompt_eval_count),
        completion_tokens: count(joined.metrics.eval_count),
        completion: joined.body.into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(failures: i16, max_attempts: i16) -> Record {
        Record { failures, max_attempts }
    }

    fn wait_after(failures: i16) -> Option<Duration> {
        match Outcome::Again(reason("x", "x")).exit(record(failures, 6)) {
            Some(Exit::Retry { wait, .. }) => Some(wait),
            Some(Exit::Failed(_)) => None,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_waits_grow_and_end_with_the_last_attempt() {
        let secs = |seconds| Some(Duration::from_secs(seconds));
        let waits: Vec<_> = (0..6).map(wait_after).collect();
        assert_eq!(waits, [secs(2), secs(10), secs(60), secs(300), secs(300), None]);
    }

    #[test]
    fn a_single_attempt_is_not_followed_by_another() {
        assert!(matches!(Outcome::Again(reason("x", "x")).exit(record(0, 1)), Some(Exit::Failed(_))));
    }

    #[test]
    fn what_is_not_the_jobs_trouble_counts_nothing() {
        for outcome in [
            Outcome::HostAway { reason: reason("x", "x"), under_it: true },
            Outcome::ModelGone(reason("x", "x")),
            Outcome::Aborted(Abort::Fenced),
            Outcome::Aborted(Abort::Stopping),
        ] {
            assert!(matches!(outcome.exit(record(2, 3)), Some(Exit::HandBack { .. })));
        }
        assert!(matches!(Outcome::Aborted(Abort::Cancelled).exit(record(0, 3)), Some(Exit::Cancelled)));
        assert!(Outcome::Stale.exit(record(0, 3)).is_none());
    }

    #[test]
    fn a_reason_can_be_stored_whatever_ollama_says() {
        assert_eq!(reason("x", "a\0b").error, "a\u{fffd}b");
    }
}
