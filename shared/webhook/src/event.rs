//! The body of a webhook, which is also one entry of a job's history.
//!
//! Every field is always there; what has no value is `null` (or `""` for the state before the first). The rules
//! about which event carries what live here, so that the api and the worker cannot disagree.

use chrono::{DateTime, Utc};
use serde::ser::{Serialize, SerializeStruct, Serializer};
use serde_json::value::RawValue;

use crate::timestamp::rfc3339;

/// The name of the artifact that is also shown as `result`.
pub const COMPLETION: &str = "completion";

/// The one state whose event carries artifacts.
const DONE: &str = "done";

/// One transition of one job, as its receivers read it.
#[derive(Debug, Clone, Copy)]
pub struct Event<'a> {
    pub job_id: &'a str,
    /// From 1, without gaps.
    pub seq: i64,
    pub state: &'a str,
    /// None for `seq` 1 alone; written as `""`.
    pub previous_state: Option<&'a str>,
    pub timestamp: DateTime<Utc>,
    /// As the client wrote it.
    pub model: &'a str,
    /// 0 until the first claim. A requeue's `queued` carries the attempt that ended.
    pub attempt: i64,
    /// What Ollama would have answered unstreamed; None before the end and above the inline limit.
    pub result: Option<&'a RawValue>,
    /// Written as `null` in every event but `done`, whatever is here.
    pub artifacts: &'a [Artifact<'a>],
    pub error: Option<&'a str>,
    /// The client's own bytes; None, so `null`, when it sent none.
    pub metadata: Option<&'a RawValue>,
}

impl Event<'_> {
    /// The bytes to sign and to send.
    pub fn to_json(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(self.about_its_size());
        serde_json::to_writer(&mut body, self).expect("strings, numbers and raw JSON always serialise");
        body
    }

    /// Bytes: a body that grows by doubling would take twice its size, and three times while it grows.
    fn about_its_size(&self) -> usize {
        let inline = |artifact: &Artifact<'_>| match &artifact.content {
            // A quotation mark in eight characters, each with a backslash.
            ArtifactContent::Data(text) => text.len() + text.len() / 8,
            ArtifactContent::Url(url) => url.len(),
        };
        let artifacts: usize = self.artifacts.iter().map(inline).sum();
        let metadata = self.metadata.map_or(0, |metadata| metadata.get().len());
        1_024 + self.result.map_or(0, |result| result.get().len()) + artifacts + metadata
    }
}

impl Serialize for Event<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let artifacts = (self.state == DONE).then_some(self.artifacts);
        let mut body = serializer.serialize_struct("Event", 12)?;
        body.serialize_field("type", &format_args!("job.{}", self.state))?;
        body.serialize_field("job_id", self.job_id)?;
        body.serialize_field("seq", &self.seq)?;
        body.serialize_field("state", self.state)?;
        body.serialize_field("previous_state", self.previous_state.unwrap_or(""))?;
        body.serialize_field("timestamp", &rfc3339(self.timestamp))?;
        body.serialize_field("model", self.model)?;
        body.serialize_field("attempt", &self.attempt)?;
        body.serialize_field("result", &self.result)?;
        body.serialize_field("artifacts", &artifacts)?;
        body.serialize_field("error", &self.error)?;
        body.serialize_field("metadata", &self.metadata)?;
        body.end()
    }
}

/// What a job made, either here or by reference.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Artifact<'a> {
    pub name: &'a str,
    pub content_type: &'a str,
    /// Bytes.
    pub size: i64,
    /// Lower-case hex.
    pub sha256: &'a str,
    #[serde(flatten)]
    pub content: ArtifactContent<'a>,
}

/// Exactly one of `data` and `url`; the other is absent, not null.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ArtifactContent<'a> {
    /// The bytes, as a JSON string.
    Data(&'a str),
    Url(String),
}

impl<'a> ArtifactContent<'a> {
    /// Inline if it fits and can be a JSON string at all; by `url` otherwise.
    pub fn choose(bytes: &'a [u8], inline_limit: u64, url: impl FnOnce() -> String) -> Self {
        let fits = bytes.len() as u64 <= inline_limit;
        match std::str::from_utf8(bytes) {
            Ok(text) if fits => Self::Data(text),
            _ => Self::Url(url()),
        }
    }
}

/// Where the api serves an artifact: absolute with a public base, relative without one.
///
/// Artifact names are Foreman's own and need no escaping.
pub fn artifact_url(public_base: Option<&str>, job_id: &str, name: &str) -> String {
    let base = public_base.unwrap_or("").trim_end_matches('/');
    format!("{base}/jobs/{job_id}/artifacts/{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOB: &str = "01JD9Q3Z8Y7V6W5X4T3S2R1Q0P";

    fn event() -> Event<'static> {
        Event {
            job_id: JOB,
            seq: 1,
            state: "queued",
            previous_state: None,
            timestamp: DateTime::from_timestamp_micros(1_792_000_000_123_456).unwrap(),
            model: "tiny-a",
            attempt: 0,
            result: None,
            artifacts: &[],
            error: None,
            metadata: None,
        }
    }

    fn body(event: &Event<'_>) -> String {
        String::from_utf8(event.to_json()).unwrap()
    }

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).unwrap()
    }

    #[test]
    fn the_first_event_has_no_state_before_it_and_attempt_0() {
        assert_eq!(
            body(&event()),
            r#"{"type":"job.queued","job_id":"01JD9Q3Z8Y7V6W5X4T3S2R1Q0P","seq":1,"state":"queued","previous_state":"","timestamp":"2026-10-14T17:46:40.123Z","model":"tiny-a","attempt":0,"result":null,"artifacts":null,"error":null,"metadata":null}"#
        );
    }

    #[test]
    fn a_done_event_carries_result_artifacts_and_the_clients_metadata_byte_for_byte() {
        let result = raw(r#"{"model":"tiny-a","done":true,"eval_count":1.0e1}"#);
        let metadata = raw(r#"{ "z": 1, "a": "\u0000é" }"#);
        let artifacts = [Artifact {
            name: "completion",
            content_type: "application/json",
            size: 9,
            sha256: "ab12",
            content: ArtifactContent::Data("{\"a\":\"é\"}"),
        }];
        let event = Event {
            seq: 4,
            state: "done",
            previous_state: Some("working"),
            attempt: 1,
            result: Some(&result),
            artifacts: &artifacts,
            metadata: Some(&metadata),
            ..event()
        };
        assert_eq!(
            body(&event),
            r#"{"type":"job.done","job_id":"01JD9Q3Z8Y7V6W5X4T3S2R1Q0P","seq":4,"state":"done","previous_state":"working","timestamp":"2026-10-14T17:46:40.123Z","model":"tiny-a","attempt":1,"result":{"model":"tiny-a","done":true,"eval_count":1.0e1},"artifacts":[{"name":"completion","content_type":"application/json","size":9,"sha256":"ab12","data":"{\"a\":\"é\"}"}],"error":null,"metadata":{ "z": 1, "a": "\u0000é" }}"#
        );
    }

    #[test]
    fn a_large_artifact_goes_by_url_and_has_no_data() {
        let artifacts = [Artifact {
            name: "completion",
            content_type: "application/json",
            size: 300_000,
            sha256: "ab12",
            content: ArtifactContent::Url(artifact_url(Some("https://jobs.example/"), JOB, "completion")),
        }];
        let event = Event {
            seq: 4,
            state: "done",
            previous_state: Some("working"),
            artifacts: &artifacts,
            ..event()
        };
        let body: serde_json::Value = serde_json::from_slice(&event.to_json()).unwrap();
        assert_eq!(
            body["artifacts"].to_string(),
            r#"[{"name":"completion","content_type":"application/json","size":300000,"sha256":"ab12","url":"https://jobs.example/jobs/01JD9Q3Z8Y7V6W5X4T3S2R1Q0P/artifacts/completion"}]"#
        );
    }

    #[test]
    fn a_requeue_carries_the_state_left_the_attempt_that_ended_and_its_reason() {
        let event = Event {
            seq: 4,
            previous_state: Some("working"),
            attempt: 2,
            error: Some("Ollama closed the connection \"early\""),
            ..event()
        };
        assert_eq!(
            body(&event),
            r#"{"type":"job.queued","job_id":"01JD9Q3Z8Y7V6W5X4T3S2R1Q0P","seq":4,"state":"queued","previous_state":"working","timestamp":"2026-10-14T17:46:40.123Z","model":"tiny-a","attempt":2,"result":null,"artifacts":null,"error":"Ollama closed the connection \"early\"","metadata":null}"#
        );
    }

    #[test]
    fn artifacts_are_null_in_every_event_but_done_where_they_are_at_least_empty() {
        let artifacts = [Artifact {
            name: "partial",
            content_type: "text/plain",
            size: 1,
            sha256: "ab12",
            content: ArtifactContent::Data("x"),
        }];
        for state in ["queued", "loading", "working", "failed", "cancelled", "expired"] {
            let body = body(&Event { state, artifacts: &artifacts, ..event() });
            assert!(body.contains(r#""artifacts":null"#), "{state}");
        }
        assert!(body(&Event { state: "done", ..event() }).contains(r#""artifacts":[]"#));
    }

    #[test]
    fn content_is_inline_up_to_the_limit_and_only_if_it_is_text() {
        let choose = |bytes, limit| ArtifactContent::choose(bytes, limit, || "/url".to_owned());
        assert_eq!(choose(b"abcd", 4), ArtifactContent::Data("abcd"));
        assert_eq!(choose(b"abcde", 4), ArtifactContent::Url("/url".to_owned()));
        assert_eq!(choose(b"\xff", 4), ArtifactContent::Url("/url".to_owned()));
        assert_eq!(choose(b"", 0), ArtifactContent::Data(""));
    }

    #[test]
    fn artifact_urls_are_relative_without_a_public_base() {
        assert_eq!(artifact_url(None, "01J", "completion"), "/jobs/01J/artifacts/completion");
        assert_eq!(artifact_url(Some("http://a/base/"), "01J", "c"), "http://a/base/jobs/01J/artifacts/c");
    }
}
