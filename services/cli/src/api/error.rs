//! Why a request has no answer to use: each reason one sentence with the mend.

use std::time::Duration;

use reqwest::StatusCode;
use url::Url;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// It was not reached, so nothing was asked of it. It may be there again in a moment.
    #[error("{base} cannot be reached ({reason}); start it with `foreman up`, or set FOREMAN_URL")]
    Away { base: Url, reason: String },
    /// It was asked, and nobody knows whether it did what it was asked.
    #[error("{base} was asked, but no answer came back ({reason}); see that it is well, and try again")]
    Lost { base: Url, reason: String },
    /// For the moment; in the api's own words.
    #[error("{sentence}")]
    Busy { status: StatusCode, sentence: String, retry_after: Duration },
    /// In the api's own words.
    #[error("{sentence}")]
    Refused { status: StatusCode, sentence: String },
    #[error("what answers at {base} is not Foreman's api ({reason}); set FOREMAN_URL to the api")]
    Strange { base: Url, reason: String },
}

impl ApiError {
    /// The api is restarted, or the network is down: asking again later may do.
    pub(crate) fn is_away(&self) -> bool {
        matches!(self, Self::Away { .. } | Self::Lost { .. })
    }
}
