//! What a client reads when its request cannot be served: an RFC 9457 problem that also carries `code`, stable for
//! programs, and `error`, one sentence for people with the mend in it. Causes go to the log and never in here.

use std::borrow::Cow;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use foreman_runtime::background::one_line;
use foreman_store::StoreError;
use serde::Serialize;
use utoipa::ToSchema;

use crate::submit::NotAccepted;

pub(crate) const CONTENT_TYPE: &str = "application/problem+json";

/// A request that is answered with an error.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    code: &'static str,
    error: Cow<'static, str>,
    header: Option<(HeaderName, HeaderValue)>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, code: &'static str, error: impl Into<Cow<'static, str>>) -> Self {
        Self { status, code, error: error.into(), header: None }
    }

    pub(crate) fn bad_request(code: &'static str, error: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, error)
    }

    pub(crate) fn unprocessable(code: &'static str, error: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, error)
    }

    pub(crate) fn conflict(code: &'static str, error: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::CONFLICT, code, error)
    }

    /// The system's own limit or trouble: the same request may succeed in a moment.
    pub(crate) fn unavailable(code: &'static str, error: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, error).retry_after(Duration::from_secs(1))
    }

    /// The client's limit.
    pub(crate) fn too_many(code: &'static str, error: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, code, error).retry_after(Duration::from_secs(1))
    }

    /// Not there, or another client's: the two must not be told apart.
    pub(crate) fn no_such_job() -> Self {
        Self::new(StatusCode::NOT_FOUND, "no_such_job", "there is no such job; list yours with GET /jobs")
    }

    pub(crate) fn no_such_artifact() -> Self {
        let error = "this job has no such artifact (yet); GET /jobs/{id} lists those it has";
        Self::new(StatusCode::NOT_FOUND, "no_such_artifact", error)
    }

    pub(crate) fn no_such_delivery() -> Self {
        let error = "there is no such delivery; list a job's with GET /jobs/{id}/deliveries";
        Self::new(StatusCode::NOT_FOUND, "no_such_delivery", error)
    }

    /// A defect of ours, never what a client sent.
    pub(crate) fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "Foreman failed at this request; its log says why",
        )
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    #[cfg(test)]
    pub(crate) fn code(&self) -> &'static str {
        self.code
    }

    /// The sentence for people.
    pub(crate) fn error(&self) -> &str {
        &self.error
    }

    pub(crate) fn retry_after(self, wait: Duration) -> Self {
        // Rounded up: whoever comes back at the second that is named must not be too early.
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        self.with(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)))
    }

    pub(crate) fn with(self, name: HeaderName, value: HeaderValue) -> Self {
        Self { header: Some((name, value)), ..self }
    }
}

/// A store that does not answer is the system's trouble, anything else a defect of ours: what clients send is parsed
/// before it gets there.
impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unreached(_)
            | StoreError::Away(_)
            | StoreError::Contended(_)
            | StoreError::Unable(_) => {
                tracing::warn!(error = one_line(error), "a request could not be served");
                Self::unavailable("database_away", "the database does not answer; try again in a moment")
            }
            StoreError::BadData(_) | StoreError::Other(_) => {
                tracing::error!(error = one_line(error), "a request failed");
                Self::internal()
            }
        }
    }
}

/// Why the submitter did not take a job.
pub(crate) fn not_accepted(reason: NotAccepted) -> Problem {
    match reason {
        NotAccepted::KeyReused => Problem::unprocessable(
            "idempotency_key_reused",
            "this idempotency key was used with another body; send a new key with a new job",
        ),
        NotAccepted::Refused => {
            Problem::bad_request("not_storable", "the job holds a value that cannot be stored; simplify it")
        }
        NotAccepted::Unavailable => Problem::unavailable(
            "not_accepted",
            "the job was not accepted, because the database did not take it; try again in a moment",
        ),
        NotAccepted::Unknown => Problem::unavailable(
            "acceptance_unknown",
            "the database went away while it took the job; send it again with the same idempotency key to be sure",
        )
        .retry_after(Duration::from_secs(5)),
    }
}

/// An RFC 9457 problem, with a `code` for programs and an `error` for people.
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct Body<'a> {
    /// Always `about:blank`: `code` says more.
    r#type: &'static str,
    /// The status in words.
    title: &'static str,
    status: u16,
    /// The same as `error`.
    detail: &'a str,
    /// Stable snake_case.
    code: &'static str,
    /// One sentence with the mend in it.
    error: &'a str,
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = Body {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or_default(),
            status: self.status.as_u16(),
            detail: &self.error,
            code: self.code,
            error: &self.error,
        };
        let json = serde_json::to_vec(&body).expect("strings and a number always serialise");
        let mut response = (self.status, [(header::CONTENT_TYPE, CONTENT_TYPE)], json).into_response();
        if let Some((name, value)) = self.header {
            response.headers_mut().insert(name, value);
        }
        response
    }
}
