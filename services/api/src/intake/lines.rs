//! Splits the body of a batch, NDJSON or one JSON array, into its lines. Nothing is copied: a line refers to the bytes of the
//! body. A refusal here refuses the whole batch, before any of its jobs is accepted.
//!
//! Must never judge a single line: the intake parses each line later.

use std::fmt;

use axum::http::StatusCode;
use bytes::Bytes;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::refusal::Refusal;

/// At most this many jobs in one batch. At 700 bytes per job they are 7 MB, and take a second.
pub(crate) const MAX_JOBS: usize = 10_000;

/// One job of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// Counted from 1. In NDJSON this is the line as an editor counts it, in an array the element.
    pub(crate) number: usize,
    /// The job, without the white space around it.
    pub(crate) bytes: Bytes,
}

/// The jobs of a batch, in order.
pub(crate) fn split(body: &Bytes) -> Result<Vec<Line>, Refusal> {
    match body.trim_ascii_start().first() {
        None => Err(Refusal::bad_request(
            "body_missing",
            "the request has no body: send one job per line (NDJSON), or a JSON array of jobs",
        )),
        Some(b'[') => elements(body),
        Some(_) => lines(body),
    }
}

/// Splits NDJSON. Empty lines are counted, but they are no jobs.
fn lines(body: &Bytes) -> Result<Vec<Line>, Refusal> {
    let mut lines = Vec::new();
    for (index, line) in body.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        if lines.len() == MAX_JOBS {
            return Err(too_many());
        }
        lines.push(Line { number: index + 1, bytes: body.slice_ref(line) });
    }
    Ok(lines)
}

/// Splits a JSON array.
fn elements(body: &Bytes) -> Result<Vec<Line>, Refusal> {
    let text = std::str::from_utf8(body).map_err(|error| {
        let error =
            format!("the array is not UTF-8 from byte {} on: encode it as UTF-8", error.valid_up_to());
        Refusal::bad_request("not_utf8", error)
    })?;
    let not_json = |error| Refusal::bad_request("not_json", format!("the array is not JSON: {error}"));
    let mut reader = serde_json::Deserializer::from_str(text);
    let elements = reader.deserialize_seq(Elements).map_err(not_json)?;
    reader.end().map_err(|_| {
        let error = "something follows the array: send one array and nothing after it, or one job per line";
        Refusal::bad_request("trailing_data", error)
    })?;
    let elements = elements.ok_or_else(too_many)?.into_iter().enumerate();
    Ok(elements
        .map(|(index, raw)| Line { number: index + 1, bytes: body.slice_ref(raw.get().as_bytes()) })
        .collect())
}

/// Reads the elements of an array as they are written. Gives `None` if there are too many.
struct Elements;

impl<'de> Visitor<'de> for Elements {
    type Value = Option<Vec<&'de RawValue>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of jobs")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Self::Value, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = array.next_element()? {
            if elements.len() == MAX_JOBS {
                while array.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(None);
            }
            elements.push(element);
        }
        Ok(Some(elements))
    }
}

fn too_many() -> Refusal {
    let error = format!("a batch is at most {MAX_JOBS} jobs; send it in several");
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "too_many_jobs", error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(body: &str) -> Result<Vec<(usize, String)>, &'static str> {
        let lines = split(&Bytes::copy_from_slice(body.as_bytes())).map_err(|refusal| refusal.code())?;
        let text = |line: Line| (line.number, String::from_utf8(line.bytes.to_vec()).unwrap());
        Ok(lines.into_iter().map(text).collect())
    }

    fn numbered(parts: &[(usize, &str)]) -> Result<Vec<(usize, String)>, &'static str> {
        Ok(parts.iter().map(|(number, text)| (*number, (*text).to_owned())).collect())
    }

    #[test]
    fn lines_are_counted_as_an_editor_does() {
        assert_eq!(parts("{1}\n{2}"), numbered(&[(1, "{1}"), (2, "{2}")]));
        assert_eq!(parts("{1}\r\n\r\n \t\n {3} \r\n"), numbered(&[(1, "{1}"), (4, "{3}")]));
        assert_eq!(parts("\n\nnonsense\n"), numbered(&[(3, "nonsense")]));
    }

    #[test]
    fn elements_keep_their_bytes() {
        assert_eq!(
            parts(" [ {\"a\" : 1.50e+3},\n7 ,[\"]\"] ]\n"),
            numbered(&[(1, "{\"a\" : 1.50e+3}"), (2, "7"), (3, "[\"]\"]")])
        );
        assert_eq!(parts("[]"), numbered(&[]));
    }

    #[test]
    fn a_body_that_is_no_batch_is_refused_as_a_whole() {
        for (body, code) in [
            ("", "body_missing"),
            (" \r\n\n", "body_missing"),
            ("[{}", "not_json"),
            ("[{},]", "not_json"),
            ("[{}\n{}]", "not_json"),
            ("[{}] {}", "trailing_data"),
            ("[{}]\n[{}]", "trailing_data"),
        ] {
            assert_eq!(parts(body), Err(code), "{body}");
        }
        assert_eq!(
            split(&Bytes::from_static(b"[\"\xff\"]")).map_err(|refusal| refusal.code()),
            Err("not_utf8")
        );
    }

    #[test]
    fn too_many_jobs_are_refused_in_either_form() {
        let (most, more) = (vec!["{}"; MAX_JOBS].join("\n"), vec!["{}"; MAX_JOBS + 1].join("\n"));
        assert_eq!(parts(&most).map(|lines| lines.len()), Ok(MAX_JOBS));
        assert_eq!(parts(&format!("\n\n{most}\n\n")).map(|lines| lines.len()), Ok(MAX_JOBS));
        assert_eq!(parts(&more), Err("too_many_jobs"));
        let array = |lines: &str| format!("[{}]", lines.replace('\n', ","));
        assert_eq!(parts(&array(&most)).map(|lines| lines.len()), Ok(MAX_JOBS));
        assert_eq!(parts(&array(&more)), Err("too_many_jobs"));
    }

    #[test]
    fn an_array_nested_without_end_is_read_without_recursion() {
        let deep = format!("[{}{}]", "[".repeat(1_000_000), "]".repeat(1_000_000));
        assert_eq!(parts(&deep).map(|lines| lines.len()), Ok(1));
    }
}
