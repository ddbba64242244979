//! Reads query parameters. Foreman's own routes that need a key refuse parameters that they do not know, before they look at
//! the key; the routes in the shapes of OpenAI's clients ignore them.

use std::fmt::Display;
use std::str::FromStr;

use axum::extract::{FromRequestParts, Query, Request};
use axum::http::Uri;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::Response;
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
        Self::of(&parts.uri)
    }
}

/// A layer around a handler. It refuses a parameter that is not `known`, and one that is repeated: the answer would be another
/// one than the client means.
pub(crate) async fn only(known: &[&str], request: Request, next: Next) -> Result<Response, Refusal> {
    Parameters::of(request.uri())?.check(known)?;
    Ok(next.run(request).await)
}

impl Parameters {
    fn of(uri: &Uri) -> Result<Self, Refusal> {
        let pairs = Query::try_from_uri(uri).map_err(|_| {
            let error = "the query cannot be read; write it as name=value&name=value";
            Refusal::bad_request("invalid_query", error)
        })?;
        Ok(Self(pairs.0))
    }

    fn check(&self, known: &[&str]) -> Result<(), Refusal> {
        for (at, (name, _)) in self.0.iter().enumerate() {
            let error = if !known.contains(&name.as_str()) {
                let name = values::excerpt(name);
                format!("there is no parameter `{name}` here; this route knows {}", listed(known))
            } else if self.0[..at].iter().any(|(before, _)| before == name) {
                format!("the parameter `{name}` is given more than once; give it once")
            } else {
                continue;
            };
            return Err(Refusal::bad_request("invalid_parameter", error));
        }
        Ok(())
    }

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

/// The names of parameters in a sentence.
fn listed(names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match names.split_last() {
        None => "none".to_owned(),
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
    }
}

/// Takes off what was read beyond a page, to know whether there is more. Returns that.
pub(crate) fn cut_to_page<T>(found: &mut Vec<T>, limit: usize) -> bool {
    let has_more = found.len() > limit;
    found.truncate(limit);
    has_more
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_or_repeated_parameter_is_refused_with_those_that_there_are() {
        let check = |query: &str, known: &[&str]| {
            let uri: Uri = format!("/x?{query}").parse().unwrap();
            Parameters::of(&uri).unwrap().check(known).map_err(|refusal| refusal.sentence().to_owned())
        };
        let known = ["status", "limit", "after"];
        assert_eq!(check("limit=1&status=x", &known), Ok(()));
        assert_eq!(check("", &[]), Ok(()));
        for (query, known, sentence) in [
            (
                "state=x",
                &known[..],
                "there is no parameter `state` here; this route knows `status`, `limit` and `after`",
            ),
            ("limit=1&LIMIT=2", &known[1..2], "there is no parameter `LIMIT` here; this route knows `limit`"),
            ("x", &[], "there is no parameter `x` here; this route knows none"),
            ("limit=1&limit=1", &known, "the parameter `limit` is given more than once; give it once"),
        ] {
            assert_eq!(check(query, known), Err(sentence.to_owned()));
        }
    }
}
