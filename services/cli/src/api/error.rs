//! Why a request failed: one sentence per reason, with the mend.

use std::time::Duration;

use reqwest::StatusCode;
use url::Url;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// No connection, so the request was not sent. The api may be there again in a moment.
    #[error("{base} cannot be reached ({reason}); start it with `foreman up`, or set FOREMAN_URL")]
    Away { base: Url, reason: String },
    /// The request was sent, and nobody knows whether it was carried out.
    #[error("{base} was asked, but no answer came back ({reason}); see that it is well, and try again")]
    Lost { base: Url, reason: String },
    /// Refused for the moment. The sentence is the api's own.
    #[error("{sentence}")]
    Busy { status: StatusCode, sentence: String, retry_after: Duration },
    /// The sentence is the api's own.
    #[error("{sentence}")]
    Refused { status: StatusCode, sentence: String },
    #[error("what answers at {base} is not Foreman's api ({reason}); set FOREMAN_URL to the api")]
    Strange { base: Url, reason: String },
}

impl ApiError {
    /// The api is restarting or the network is down, so asking again later may help.
    pub(crate) fn is_away(&self) -> bool {
        matches!(self, Self::Away { .. } | Self::Lost { .. })
    }
}
