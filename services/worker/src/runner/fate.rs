//! What becomes of a job when it leaves its slot: the one place that decides. Pure.
//!
//! `shared/ollama` only says of what kind a failure is, and `trouble.rs` only looks at Ollama once more where that tells more.
//! Postgres adds a single rule as the lease is left: a cancel that was asked for wins over everything but a success.

use std::time::Duration;

use foreman_ollama::{FailureKind, Joined};
use foreman_store::{Completion, Exit, Reason};

/// The waits before a job is tried again, by how often it has failed; the last goes on.
const BACKOFF: [Duration; 4] =
    [Duration::from_secs(2), Duration::from_secs(10), Duration::from_secs(60), Duration::from_secs(5 * 60)];

/// A job under which its host went away this often is taken for the cause: from then on it counts as its failure.
const TOO_OFTEN: u32 = 3;

/// How a job's time in a slot ended, or why it got none.
#[derive(Debug)]
pub(crate) enum Ending {
    Done(Joined),
    Failed(Failed),
    Aborted(Abort),
    /// It is given back without having begun, for a reason of ours.
    GivenBack(Reason),
    /// Somebody had asked for its cancelling before it began.
    Cancelled,
    /// Its time had passed before it began.
    Expired,
    /// The lease was another's already: there is nothing to say.
    Stale,
}

#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) kind: FailureKind,
    pub(crate) look: Look,
    pub(crate) reason: Reason,
}

/// What a look at Ollama showed right after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// Nothing new, or the failure's kind made it needless.
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
    /// The process may be taken for dead by now.
    Fenced,
    /// The grace is nearly over.
    Stopping,
}

/// What counts for a job's fate beside its ending.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Past {
    /// Failures before this attempt.
    pub(crate) failures: i16,
    pub(crate) max_attempts: i16,
    /// How often its host went away under it, this time included.
    pub(crate) vanished: u32,
}

/// What an ending says of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HostTrouble {
    /// Ollama cannot be reached, or something else answers in its place. `under_job`: it went while it had the job's own
    /// request, so that the job may be the cause.
    Away {
        under_job: bool,
    },
    ModelGone,
}

impl Ending {
    /// It failed for a reason of ours that may have passed another time.
    pub(crate) fn again(reason: Reason) -> Self {
        Self::Failed(Failed { kind: FailureKind::MayPass, look: Look::NothingNew, reason })
    }

    /// It failed for a reason of ours, and would again.
    pub(crate) fn never(reason: Reason) -> Self {
        Self::Failed(Failed { kind: FailureKind::Lasting, look: Look::NothingNew, reason })
    }

    /// What the host has to do with it.
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

    /// The way out of the lease, or nothing if that is another's.
    pub(crate) fn fate(self, past: Past) -> Option<Exit> {
        let host_trouble = self.host_trouble();
        Some(match self {
            Self::Done(joined) => Exit::Done(completion(joined)),
            Self::Failed(Failed { kind, reason, .. }) => match (host_trouble, kind) {
                // Not the job's trouble: nothing is counted.
                (Some(HostTrouble::ModelGone | HostTrouble::Away { under_job: false }), _) => {
                    Exit::HandBack { reason }
                }
                (Some(HostTrouble::Away { .. }), _) if past.vanished < TOO_OFTEN => Exit::HandBack { reason },
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

/// A reason that Postgres can keep: its texts hold no NUL, and Ollama's may.
pub(crate) fn reason(code: &str, error: &str) -> Reason {
    Reason { code: code.to_owned(), error: error.replace('\0', "\u{fffd}") }
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
    use FailureKind::{Lasting, MayPass, ModelMissing, NotOllama, Unreachable};
    use Look::{Away, ModelGone, NothingNew};

    /// The second of six attempts.
    const PAST: Past = Past { failures: 1, max_attempts: 6, vanished: 0 };

    fn failed(kind: FailureKind, look: Look) -> Ending {
        Ending::Failed(Failed { kind, look, reason: reason("x", "x") })
    }

    fn joined() -> Joined {
        let line = br#"{"model":"m","response":"x","done":true,"prompt_eval_count":3,"eval_count":5}"#;
        let mut join = foreman_ollama::Join::new(foreman_ollama::Route::Generate, 1 << 10);
        join.push(line).unwrap();
        join.finish().unwrap()
    }

    /// In a word, with the wait of a retry.
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
            (Ending::Done(joined()), PAST, "done, Some(5) tokens"),
            (Ending::Done(joined()), last, "done, Some(5) tokens"),
            // What may pass is tried again while there are attempts left.
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
            // But the third time under the same job it counts.
            (failed(MayPass, Away), vanished(3), "again in 10 s"),
            (failed(MayPass, Away), Past { vanished: 3, ..last }, "failed"),
            (failed(NotOllama, NothingNew), vanished(3), "again in 10 s"),
            // What would fail again is not tried again.
            (failed(Lasting, NothingNew), PAST, "failed"),
            (failed(Lasting, Away), PAST, "failed"),
            // Ollama lists the model and yet does not find it.
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
