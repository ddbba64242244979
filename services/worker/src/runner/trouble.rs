//! What went wrong in an attempt. Where it helps, a second look at Ollama tells whether the host is the cause. `fate.rs`
//! decides what the trouble means for the job; this file must not.

use std::sync::Arc;
use std::time::Duration;

use foreman_ollama::{Client, Failure, FailureKind, ModelName};
use foreman_runtime::background::one_line;
use foreman_store::Reason;

use super::fate::{Ending, Failed, Look, reason};
use super::load::LoadFailure;

#[derive(Debug)]
pub(crate) enum Trouble {
    /// Ollama failed, or could not be reached.
    Ollama(Arc<Failure>),
    /// The attempt took longer than one of the worker's limits.
    Limit { reason: Reason, again: bool },
}

impl Trouble {
    pub(crate) fn no_token(within: Duration) -> Self {
        let error = format!(
            "no token came within {}: the model is too large or Ollama hangs; raise FOREMAN_LOAD_TIMEOUT if it needs longer",
            seconds(within)
        );
        Self::Limit { reason: reason("load_timeout", &error), again: true }
    }

    pub(crate) fn no_further_token(within: Duration) -> Self {
        let error = format!(
            "no further token came within {}: Ollama hangs; raise FOREMAN_IDLE_TIMEOUT if the model needs longer",
            seconds(within)
        );
        Self::Limit { reason: reason("idle_timeout", &error), again: true }
    }

    pub(crate) fn too_long(limit: Duration) -> Self {
        let error =
            format!("it ran for longer than {}: ask for less, or raise FOREMAN_RUN_TIMEOUT", seconds(limit));
        Self::Limit { reason: reason("run_timeout", &error), again: false }
    }

    /// Makes an ending of the trouble, and logs it. The log stands here because the ending no longer has the causes.
    pub(crate) async fn ending(self, model: &ModelName, ollama: &Client) -> Ending {
        match self {
            Self::Limit { reason, again } => {
                tracing::warn!(code = reason.code, "an attempt ran into a limit");
                if again { Ending::again(reason) } else { Ending::never(reason) }
            }
            Self::Ollama(failure) => {
                let kind = failure.kind();
                let look = match kind {
                    FailureKind::MayPass if is_away(ollama).await => Look::Away,
                    FailureKind::ModelMissing if is_gone(ollama, model).await => Look::ModelGone,
                    _ => Look::NothingNew,
                };
                let (code, reason) = (failure.code(), reason(failure.code(), &failure.to_string()));
                tracing::warn!(code, error = one_line(failure), "an attempt failed");
                Ending::Failed(Failed { kind, look, reason })
            }
        }
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Ollama(Arc::new(failure))
    }
}

impl From<LoadFailure> for Trouble {
    fn from(failure: LoadFailure) -> Self {
        match failure {
            LoadFailure::Ollama(failure) => Self::Ollama(failure),
            LoadFailure::TimedOut(limit) => Self::no_token(limit),
        }
    }
}

async fn is_away(ollama: &Client) -> bool {
    ollama.version().await.is_err_and(|failure| failure.is_of_host())
}

/// Whether Ollama no longer lists the model. If it lists the model but does not find it, the job fails.
async fn is_gone(ollama: &Client, model: &ModelName) -> bool {
    let listed = ollama.tags().await;
    listed.is_ok_and(|models| !models.iter().any(|one| ModelName::parse(&one.name).as_ref() == Ok(model)))
}

fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs())
}
