//! Decides what becomes of a job when its attempt has ended. No other file decides that. Pure.
//!
//! `shared/ollama` says of which kind a failure is, and `trouble.rs` looks at Ollama once more where a second look helps.
//! Postgres adds one rule when it deletes the lease: a requested cancel wins over every outcome except a success.

use std::time::Duration;

use foreman_ollama::FailureKind;
use foreman_store::{Completion, Exit, Reason};

/// How long a job waits before its next attempt, by the number of its failures so far. Further failures repeat the
/// last wait.
const BACKOFF: [Duration; 4] =
    [Duration::from_secs(2), Duration::from_secs(10), Duration::from_secs(60), Duration::from_secs(5 * 60)];

/// When Ollama has gone away this many times under the same job, the job is probably the cause. From then on each
/// time counts as a failure of the job.
const MAX_VANISHED: u32 = 3;

/// How a job's attempt ended, or why no attempt was made.
#[derive(Debug)]
pub(crate) enum Ending {
    Done(Completion),
    Failed(Failed),
    Aborted(Abort),
    /// The worker gives the job back before it has begun, for a reason of the worker's own.
    GivenBack(Reason),
    /// Somebody cancelled the job before it began.
    Cancelled,
    /// The job's `expires_at` passed before it began.
    Expired,
    /// Another worker has the job already, or its request is gone. There is no outcome to write.
    Stale,
}

#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) kind: FailureKind,
    pub(crate) look: Look,
    pub(crate) reason: Reason,
}

/// What the worker saw when it looked at Ollama right after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// Nothing new, or the kind of the failure needed no look.
    NothingNew,
    /// Ollama does not answer.
    Away,
    /// Ollama does not list the job's model.
    ModelGone,
}

/// Why an attempt was stopped from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Abort {
    Cancelled,
    /// The worker's spell has ended, so other workers may take it for dead by now.
    Fenced,
    /// The process stops, and its grace is nearly over.
    Stopping,
}

/// The job's history, as far as its fate depends on it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Past {
    /// Failures before this attempt.
    pub(crate) failures: i16,
    pub(crate) max_attempts: i16,
    /// How often Ollama went away under this job, this time included.
    pub(crate) vanished: u32,
    /// Whether the caller of a sync call may have a part of the answer already.
    pub(crate) given_out: bool,
}

/// What an ending tells about the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HostTrouble {
    /// Ollama cannot be reached, or something else answers in its place. With `under_job` it went away while it had
    /// the job's own request, so the job may be the cause.
    Away {
        under_job: bool,
    },
    ModelGone,
}

impl Ending {
    /// A failure on the worker's side that may have passed by the next attempt.
    pub(crate) fn again(reason: Reason) -> Self {
        Self::Failed(Failed { kind: FailureKind::MayPass, look: Look::NothingNew, reason })
    }

    /// A failure on the worker's side that would happen again.
    pub(crate) fn never(reason: Reason) -> Self {
        Self::Failed(Failed { kind: FailureKind::Lasting, look: Look::NothingNew, reason })
    }

    /// Which trouble of the host caused this ending, if one did.
    pub(crate) fn host_trouble(&self) -> Option<HostTrouble> {
        let Self::Failed(Failed { kind, look, .. }) = self else { return None };
        match (kind, look) {
            (FailureKind::Unreachable, _) => Some(HostTrouble::Away { under_job: false }),
            (FailureKind::NotOllama, _) | (FailureKind::MayPass, Look::Away) => {
                Some(HostTrouble::Away { under_job: true })
            }
            (FailureKind::ModelMissing, Look::ModelGone) => Some(HostTrouble::ModelGone),
            _ => None,
        }
    }

    /// How the job leaves its lease. `None` if the lease is not ours any more.
    pub(crate) fn fate(self, past: Past) -> Option<Exit> {
        let host_trouble = self.host_trouble();
        let exit = match self {
            Self::Done(completion) => Exit::Done(completion),
            Self::Failed(Failed { kind, reason, .. }) => match (host_trouble, kind) {
                // The job did not cause this, so it costs the job no attempt.
                (Some(HostTrouble::ModelGone | HostTrouble::Away { under_job: false }), _) => {
                    Exit::HandBack { reason }
                }
                (Some(HostTrouble::Away { .. }), _) if past.vanished < MAX_VANISHED => {
                    Exit::HandBack { reason }
                }
                (Some(HostTrouble::Away { .. }), _) | (None, FailureKind::MayPass) => past.again(reason),
                (None, _) => Exit::Failed(reason),
            },
            Self::Aborted(Abort::Cancelled) | Self::Cancelled => Exit::Cancelled,
            Self::Aborted(Abort::Fenced) => Exit::HandBack {
                reason: reason("worker_fenced", "the worker that ran it was cut off from Postgres"),
            },
            Self::Aborted(Abort::Stopping) => {
                Exit::HandBack { reason: reason("worker_stopped", "the worker that ran it was stopped") }
            }
            Self::GivenBack(reason) => Exit::HandBack { reason },
            Self::Expired => Exit::Expired,
            Self::Stale => return None,
        };
        Some(match exit {
            // The bytes of another attempt cannot follow those of this one.
            Exit::Retry { reason, .. } | Exit::HandBack { reason } if past.given_out => Exit::Failed(reason),
            exit => exit,
        })
    }
}

impl Past {
    fn again(self, reason: Reason) -> Exit {
        if self.failures + 1 >= self.max_attempts {
            return Exit::Failed(reason);
        }
        let nth = usize::try_from(self.failures).unwrap_or(0);
        Exit::Retry { reason, wait: BACKOFF[nth.min(BACKOFF.len() - 1)] }
    }
}

/// A reason that Postgres can store. Postgres allows no NUL in a text, and Ollama's errors may contain one.
pub(crate) fn reason(code: &str, error: &str) -> Reason {
    Reason { code: code.to_owned(), error: error.replace('\0', "\u{fffd}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use FailureKind::{Lasting, MayPass, ModelMissing, NotOllama, Unreachable};
    use Look::{Away, ModelGone, NothingNew};

    /// The second of six attempts.
    const PAST: Past = Past { failures: 1, max_attempts: 6, vanished: 0, given_out: false };

    fn failed(kind: FailureKind, look: Look) -> Ending {
        Ending::Failed(Failed { kind, look, reason: reason("x", "x") })
    }

    fn completion() -> Completion {
        Completion {
            completion: Vec::new(),
            content_type: "application/json".to_owned(),
            prompt_tokens: None,
            completion_tokens: Some(5),
        }
    }

    /// The fate as a short text, with the wait of a retry.
    fn fate(ending: Ending, past: Past) -> String {
        match ending.fate(past) {
            None => "nothing".to_owned(),
            Some(Exit::Done(completion)) => format!("done, {:?} tokens", completion.completion_tokens),
            Some(Exit::Failed(_)) => "failed".to_owned(),
            Some(Exit::Retry { wait, .. }) => format!("again in {} s", wait.as_secs()),
            Some(Exit::HandBack { .. }) => "handed back".to_owned(),
            Some(Exit::Cancelled) => "cancelled".to_owned(),
            Some(Exit::Expired) => "expired".to_owned(),
        }
    }

    #[test]
    fn every_ending_has_one_fate() {
        let last = Past { failures: 5, ..PAST };
        let vanished = |vanished| Past { vanished, ..PAST };
        let given_back = || Ending::GivenBack(reason("x", "x"));
        let cases = [
            (Ending::Done(completion()), PAST, "done, Some(5) tokens"),
            (Ending::Done(completion()), last, "done, Some(5) tokens"),
            // A failure that may pass is retried while there are attempts left.
            (failed(MayPass, NothingNew), PAST, "again in 10 s"),
            (failed(MayPass, NothingNew), last, "failed"),
            (failed(MayPass, NothingNew), Past { max_attempts: 1, failures: 0, ..PAST }, "failed"),
            // The host's trouble costs no attempt, not even the last.
            (failed(Unreachable, NothingNew), PAST, "handed back"),
            (failed(Unreachable, NothingNew), last, "handed back"),
            (failed(Unreachable, NothingNew), vanished(9), "handed back"),
            (failed(MayPass, Away), vanished(1), "handed back"),
            (failed(MayPass, Away), Past { vanished: 2, ..last }, "handed back"),
            (failed(NotOllama, NothingNew), vanished(1), "handed back"),
            (failed(ModelMissing, ModelGone), last, "handed back"),
            // From the third time under the same job, it counts as the job's failure.
            (failed(MayPass, Away), vanished(3), "again in 10 s"),
            (failed(MayPass, Away), Past { vanished: 3, ..last }, "failed"),
            (failed(NotOllama, NothingNew), vanished(3), "again in 10 s"),
            // A lasting failure is not retried.
            (failed(Lasting, NothingNew), PAST, "failed"),
            (failed(Lasting, Away), PAST, "failed"),
            // Ollama lists the model but does not find it.
            (failed(ModelMissing, NothingNew), PAST, "failed"),
            (Ending::Aborted(Abort::Fenced), last, "handed back"),
            (Ending::Aborted(Abort::Stopping), last, "handed back"),
            (Ending::Aborted(Abort::Cancelled), last, "cancelled"),
            (given_back(), last, "handed back"),
            (Ending::Cancelled, PAST, "cancelled"),
            (Ending::Expired, PAST, "expired"),
            (Ending::Stale, PAST, "nothing"),
        ];
        for (ending, past, expected) in cases {
            let shown = format!("{ending:?}, {past:?}");
            assert_eq!(fate(ending, past), expected, "{shown}");
        }
    }

    #[test]
    fn what_a_caller_has_begun_to_read_is_never_run_again() {
        let past = Past { given_out: true, vanished: 1, ..PAST };
        for (ending, expected) in [
            (failed(MayPass, NothingNew), "failed"),
            (failed(MayPass, Away), "failed"),
            (failed(Unreachable, NothingNew), "failed"),
            (Ending::Aborted(Abort::Fenced), "failed"),
            (Ending::Aborted(Abort::Stopping), "failed"),
            (Ending::Aborted(Abort::Cancelled), "cancelled"),
            (Ending::Done(completion()), "done, Some(5) tokens"),
        ] {
            let shown = format!("{ending:?}");
            assert_eq!(fate(ending, past), expected, "{shown}");
        }
    }

    #[test]
    fn the_waits_grow_and_end_with_the_last_attempt() {
        let after = |failures| fate(failed(MayPass, NothingNew), Past { failures, ..PAST });
        let fates =
            ["again in 2 s", "again in 10 s", "again in 60 s", "again in 300 s", "again in 300 s", "failed"];
        assert_eq!((0..6).map(after).collect::<Vec<_>>(), fates);
    }

    #[test]
    fn a_reason_can_be_stored_whatever_ollama_says() {
        assert_eq!(reason("x", "a\0b").error, "a\u{fffd}b");
    }
}
