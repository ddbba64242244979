//! How a request to Ollama can fail, and of which kind each failure is.
//!
//! Must never decide what a failure means for a job: the worker decides that, because it knows the job.

use reqwest::StatusCode;

/// The kind of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// Nobody answers at the host's address.
    Unreachable,
    /// The program that answers there is not Ollama.
    NotOllama,
    /// The same request may succeed another time.
    MayPass,
    /// Ollama does not have the model.
    ModelMissing,
    /// The same request would fail again.
    Lasting,
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
    /// Ollama reported a trouble that another attempt may not meet; see [`crate::RETRY_TEXTS`].
    #[error("Ollama could not run the model now: {text}")]
    Transient { code: &'static str, text: String },
    #[error("{text}: pull it on the Ollama host with `ollama pull`, or name one that `ollama list` shows")]
    ModelMissing { text: String },
    /// Ollama reported that the request itself is wrong, or that the model cannot run it.
    #[error("Ollama refused the request ({status}): {text}")]
    Refused { status: StatusCode, text: String },
    /// Ollama reported an error in the middle of its stream, where no status can follow.
    #[error("Ollama gave up in the middle of its answer: {text}")]
    StreamError { text: String },
    /// Foreman's jobs would wait for themselves.
    #[error("{host} is Foreman itself and not an Ollama: set OLLAMA_HOST to the Ollama behind it")]
    IsForeman { host: String },
    /// Ollama never sends this status. Another program listens at the address, or stands between.
    #[error("{host} answered {status}, which Ollama never does: check what OLLAMA_HOST points at")]
    NotOllama { host: String, status: StatusCode },
    #[error("Ollama's answer could not be read: {what}")]
    Unreadable { what: String },
    #[error("the answer is larger than {limit} bytes: ask for a shorter one, or raise FOREMAN_MAX_RESULT")]
    TooLarge { limit: usize },
}

impl Failure {
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Unreachable { .. } => FailureKind::Unreachable,
            Self::IsForeman { .. } | Self::NotOllama { .. } => FailureKind::NotOllama,
            Self::ConnectionLost { .. }
            | Self::EndedEarly
            | Self::Transient { .. }
            | Self::Unreadable { .. } => FailureKind::MayPass,
            Self::ModelMissing { .. } => FailureKind::ModelMissing,
            Self::Refused { .. } | Self::StreamError { .. } | Self::TooLarge { .. } => FailureKind::Lasting,
        }
    }

    /// Whether this failure shows that no Ollama is at the host's address.
    pub fn is_of_host(&self) -> bool {
        matches!(self.kind(), FailureKind::Unreachable | FailureKind::NotOllama)
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
