//! Writes a [`Refusal`] in the form of Foreman's own routes: an RFC 9457 problem with a stable `code` for programs and the
//! sentence `error` for people. Must never decide what a client is told.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::refusal::Refusal;

pub(crate) const CONTENT_TYPE: &str = "application/problem+json";

/// RFC 9110 wants every 401 to name the scheme in which clients send their keys.
const SCHEME: HeaderValue = HeaderValue::from_static("Bearer");

/// The refusal of a request to one of Foreman's own routes.
#[derive(Debug)]
pub(crate) struct Problem(Refusal);

impl<E: Into<Refusal>> From<E> for Problem {
    fn from(error: E) -> Self {
        Self(error.into())
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
        let Self(refusal) = self;
        let status = refusal.status();
        let body = Body {
            r#type: "about:blank",
            title: status.canonical_reason().unwrap_or_default(),
            status: status.as_u16(),
            detail: refusal.sentence(),
            code: refusal.code(),
            error: refusal.sentence(),
        };
        let json = serde_json::to_vec(&body).expect("strings and a number always serialise");
        let mut response = (status, [(header::CONTENT_TYPE, CONTENT_TYPE)], json).into_response();
        if let Some(seconds) = refusal.retry_after_seconds() {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, SCHEME);
        }
        response
    }
}
