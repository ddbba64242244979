//! Reads query parameters. The handlers check the parameters that they know, and unknown ones are ignored.

use std::fmt::Display;
use std::str::FromStr;

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use chrono::{DateTime, Utc};

use super::values;
use crate::refusal::Refusal;

/// The entries on a page if the request names no `limit`, and the largest `limit`.
const DEFAULT_PAGE: usize = 50;
const LARGEST_PAGE: usize = 500;

/// The parameters of a request.
pub(crate) struct Parameters(Vec<(String, String)>);

impl<S: Sync> FromRequestParts<S> for Parameters {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let pairs = Query::try_from_uri(&parts.uri).map_err(|_| {
            Refusal::bad_request(
                "invalid_query",
                "the query cannot be read; write it as name=value&name=value",
            )
        })?;
        Ok(Self(pairs.0))
    }
}

impl Parameters {
    /// The value of a parameter, if there is one. If the parameter is repeated, its first value.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    /// Parses a parameter. `expected` ends the sentence "the parameter must be …" of the refusal.
    pub(crate) fn read<T: FromStr>(&self, name: &str, expected: impl Display) -> Result<Option<T>, Refusal> {
        self.read_if(name, expected, |_| true)
    }

    /// The same as [`read`](Self::read), and refuses values that are not `is_good`.
    pub(crate) fn read_if<T: FromStr>(
        &self,
        name: &str,
        expected: impl Display,
        is_good: impl Fn(&T) -> bool,
    ) -> Result<Option<T>, Refusal> {
        let Some(text) = self.get(name) else { return Ok(None) };
        text.parse().ok().filter(is_good).map(Some).ok_or_else(|| {
            Refusal::bad_request("invalid_parameter", format!("the parameter `{name}` must be {expected}"))
        })
    }

    /// Parses a parameter that is a time as in RFC 3339.
    pub(crate) fn moment(&self, name: &str) -> Result<Option<DateTime<Utc>>, Refusal> {
        let text = self.get(name);
        text.map(|text| values::moment(name, "invalid_parameter", Some(text))).transpose()
    }

    /// The parameter `limit`: how many entries the client wants on the page.
    pub(crate) fn page_size(&self) -> Result<usize, Refusal> {
        self.page_size_within(DEFAULT_PAGE, LARGEST_PAGE)
    }

    /// The same for a list whose clients know other limits.
    pub(crate) fn page_size_within(&self, default: usize, largest: usize) -> Result<usize, Refusal> {
        let expected = format_args!("a whole number from 1 to {largest}");
        let limit = self.read_if("limit", expected, |limit| (1..=largest).contains(limit))?;
        Ok(limit.unwrap_or(default))
    }
}

/// Takes off what was read beyond a page, to know whether there is more. Returns that.
pub(crate) fn cut_to_page<T>(found: &mut Vec<T>, limit: usize) -> bool {
    let has_more = found.len() > limit;
    found.truncate(limit);
    has_more
}
