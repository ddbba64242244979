//! How a request to Ollama can fail, and what that means for the job behind it.
//!
//! The verdict is made here, where the failure arises, and nowhere else: the worker only carries it out.

use reqwest::StatusCode;

/// What is to become of a job whose request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The job may succeed if it runs again: it counts as one failed attempt.
    Retry,
    /// The host's trouble and not the job's: hand the job back, count nothing, and wait for the host.
    HostAway,
    /// It would fail again in the same way.
    Fail,
}

/// Why a request to Ollama did not succeed. The text is for the job's owner; the source chain is for the log.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("Ollama at {host} cannot be reached: start it there, or mend OLLAMA_HOST")]
    Unreachable { host: String, source: reqwest::Error },
    #[error("the connection to Ollama was lost before its answer was complete")]
    ConnectionLost { source: reqwest::Error },
    #[error("Ollama ended its answer before it was complete")]
    EndedEarly,
    /// Ollama said something that a second attempt may mend; see [`crate::RETRY_TEXTS`].
    #[error("Ollama could not run the model now: {text}")]
    Transient { code: &'static str, text: String },
    #[error("{text}: pull it on the Ollama host with `ollama pull`, or name one that `ollama list` shows")]
    ModelMissing { text: String },
    /// Ollama said that the request itself is wrong, or that the model cannot run it.
    #[error("Ollama refused the request ({status}): {text}")]
    Refused { status: StatusCode, text: String },
    /// Ollama said so in mid-stream, where there is no status any more.
    #[error("Ollama gave up in the middle of its answer: {text}")]
    StreamError { text: String },
    /// Its jobs would wait for themselves.
    #[error("{host} is Foreman itself and not an Ollama: set OLLAMA_HOST to the Ollama behind it")]
    IsForeman { host: String },
    /// A status that Ollama itself never sends: something else listens there, or stands in between.
    #[error("{host} answered {status}, which Ollama never does: check what OLLAMA_HOST points at")]
    NotOllama { host: String, status: StatusCode },
    #[error("Ollama's answer could not be read: {what}")]
    Unreadable { what: String },
    #[error("the answer is larger than {limit} bytes: ask for a shorter one, or raise FOREMAN_MAX_RESULT")]
    TooLarge { limit: usize },
}

impl Failure {
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Unreachable { .. } | Self::IsForeman { .. } | Self::NotOllama { .. } => Verdict::HostAway,
            Self::ConnectionLost { .. }
            | Self::EndedEarly
            | Self::Transient { .. }
            | Self::Unreadable { .. } => Verdict::Retry,
            Self::ModelMissing { .. }
            | Self::Refused { .. }
            | Self::StreamError { .. }
            | Self::TooLarge { .. } => Verdict::Fail,
        }
    }

    /// The stable name of this failure, for `error_code` and metrics.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "ollama_unreachable",
            Self::ConnectionLost { .. } => "ollama_connection_lost",
            Self::EndedEarly => "ollama_ended_early",
            Self::Transient { code, .. } => code,
            Self::ModelMissing { .. } => "model_not_found",
            Self::Refused { status, .. } if status.is_client_error() => "ollama_refused",
            Self::Refused { .. } | Self::StreamError { .. } => "ollama_error",
            Self::IsForeman { .. } => "ollama_is_foreman",
            Self::NotOllama { .. } => "not_ollama",
            Self::Unreadable { .. } => "ollama_unreadable",
            Self::TooLarge { .. } => "result_too_large",
        }
    }
}
