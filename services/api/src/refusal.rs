//! Why a request is not served: a status, a code for programs, a sentence for people, and how long to wait before the next
//! try. The code that finds the reason makes a [`Refusal`], and the surface of the request writes it in the form that its clients
//! know.
//!
//! Must never know the body of an answer, and never carry the cause of an error: causes go to the log.

use std::borrow::Cow;
use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use foreman_ollama::SyncBodyError;
use foreman_runtime::background::one_line;
use foreman_store::StoreError;
use foreman_webhook::UrlError;

/// RFC 9110 wants every 401 to name a scheme in which clients send their keys.
const SCHEME: HeaderValue = HeaderValue::from_static("Bearer");

/// The reason that a client gets when its request is not served.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    status: StatusCode,
    code: &'static str,
    sentence: Cow<'static, str>,
    retry_after: Option<Duration>,
}

impl Refusal {
    /// `code` is snake_case and never changes. The sentence says how to mend the request.
    pub(crate) fn new(
        status: StatusCode,
        code: &'static str,
        sentence: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { status, code, sentence: sentence.into(), retry_after: None }
    }

    pub(crate) fn bad_request(code: &'static str, sentence: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, sentence)
    }

    pub(crate) fn unprocessable(code: &'static str, sentence: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, sentence)
    }

    pub(crate) fn conflict(code: &'static str, sentence: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::CONFLICT, code, sentence)
    }

    /// For a limit or a failure of Foreman itself. The same request may succeed in a moment.
    pub(crate) fn unavailable(code: &'static str, sentence: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, sentence).retry_after(Duration::from_secs(1))
    }

    /// For a limit of the client.
    pub(crate) fn too_many(code: &'static str, sentence: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, code, sentence).retry_after(Duration::from_secs(1))
    }

    pub(crate) fn administrators_only() -> Self {
        let sentence = "only an administrator may do this; send the key of one, which `foreman client create NAME --admin` makes";
        Self::new(StatusCode::FORBIDDEN, "administrators_only", sentence)
    }

    /// The job does not exist, or it is another client's. A client must not be able to tell the difference.
    pub(crate) fn no_such_job() -> Self {
        Self::new(StatusCode::NOT_FOUND, "no_such_job", "there is no such job; list yours with GET /jobs")
    }

    pub(crate) fn no_such_artifact() -> Self {
        let sentence = "this job has no such artifact (yet); GET /jobs/{id} lists those it has";
        Self::new(StatusCode::NOT_FOUND, "no_such_artifact", sentence)
    }

    pub(crate) fn no_such_delivery() -> Self {
        let sentence = "there is no such delivery; list a job's with GET /jobs/{id}/deliveries";
        Self::new(StatusCode::NOT_FOUND, "no_such_delivery", sentence)
    }

    pub(crate) fn no_such_endpoint() -> Self {
        let sentence = "there is no such endpoint; list yours with GET /webhooks";
        Self::new(StatusCode::NOT_FOUND, "no_such_endpoint", sentence)
    }

    pub(crate) fn database_away() -> Self {
        Self::unavailable("database_away", "the database does not answer; try again in a moment")
    }

    /// For a defect of Foreman. Must never be used for a mistake in the request.
    pub(crate) fn internal() -> Self {
        let sentence = "Foreman failed at this request; its log says why";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", sentence)
    }

    pub(crate) fn retry_after(self, wait: Duration) -> Self {
        Self { retry_after: Some(wait), ..self }
    }

    pub(crate) fn with_sentence(self, sentence: String) -> Self {
        Self { sentence: sentence.into(), ..self }
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    pub(crate) fn code(&self) -> &'static str {
        self.code
    }

    /// The sentence for people.
    pub(crate) fn sentence(&self) -> &str {
        &self.sentence
    }

    /// The value of `Retry-After`. It is rounded up, so that a client that waits exactly this long does not come too early.
    pub(crate) fn retry_after_seconds(&self) -> Option<u64> {
        let wait = self.retry_after?;
        Some((wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1))
    }
}

/// The head of the answer. The refusal itself goes along in the extensions, for the surface to write the body.
impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after_seconds() {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, SCHEME);
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// A body that Ollama refuses is refused in Ollama's words.
impl From<SyncBodyError> for Refusal {
    fn from(error: SyncBodyError) -> Self {
        let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::BAD_REQUEST);
        Self::new(status, "refused_as_ollama", error.text)
    }
}

/// A receiver that may not be called.
impl From<UrlError> for Refusal {
    fn from(error: UrlError) -> Self {
        Self::unprocessable(error.code(), error.to_string())
    }
}

/// An error of the store is a failure of Foreman or a defect, never a client's mistake: requests are parsed before they reach
/// the store.
impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unreached(_)
            | StoreError::Away(_)
            | StoreError::Contended(_)
            | StoreError::Unable(_) => {
                tracing::warn!(error = one_line(error), "a request could not be served");
                Self::database_away()
            }
            StoreError::BadData(_) | StoreError::Other(_) => {
                tracing::error!(error = one_line(error), "a request failed");
                Self::internal()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_told_in_whole_seconds_and_never_too_short() {
        let told = |wait| Refusal::too_many("limit", "wait").retry_after(wait).retry_after_seconds();
        assert_eq!(told(Duration::ZERO), Some(1));
        assert_eq!(told(Duration::from_millis(2_001)), Some(3));
        assert_eq!(told(Duration::from_secs(60)), Some(60));
        assert_eq!(Refusal::bad_request("bad", "mend it").retry_after_seconds(), None);
    }
}
