//! Writes a [`Refusal`] in the form of Foreman's own routes: an RFC 9457 problem with a stable `code` for programs and the
//! sentence `error` for people. Must never decide what a client is told.

use serde::Serialize;
use utoipa::ToSchema;

use crate::refusal::Refusal;

pub(crate) const CONTENT_TYPE: &str = "application/problem+json";

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

impl<'a> From<&'a Refusal> for Body<'a> {
    fn from(refusal: &'a Refusal) -> Self {
        let status = refusal.status();
        Self {
            r#type: "about:blank",
            title: status.canonical_reason().unwrap_or_default(),
            status: status.as_u16(),
            detail: refusal.sentence(),
            code: refusal.code(),
            error: refusal.sentence(),
        }
    }
}
