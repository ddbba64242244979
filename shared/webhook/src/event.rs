//! The body of a webhook. One entry of a job's history has the same body.
//!
//! Every field is always there. A field without a value is `null`; only the state before the first one is `""`. This file
//! alone decides which event has which fields, so that the api and the worker cannot disagree.

use chrono::{DateTime, Utc};
use serde::ser::{Serialize, SerializeStruct, Serializer};
use serde_json::value::RawValue;

use crate::timestamp::rfc3339;

/// The name of the artifact that an event also shows as `result`.
pub const COMPLETION: &str = "completion";

/// The only state whose event has artifacts.
const DONE: &str = "done";

/// One transition of one job, as its receivers read it.
#[derive(Debug, Clone, Copy)]
pub struct Event<'a> {
    pub job_id: &'a str,
    /// From 1, without gaps.
    pub seq: i64,
    pub state: &'a str,
    /// `None` only if `seq` is 1: written as `""`.
    pub previous_state: Option<&'a str>,
    pub timestamp: DateTime<Utc>,
    /// As the client wrote it.
    pub model: &'a str,
    /// 0 until the first claim. A requeue's `queued` carries the attempt that ended.
    pub attempt: i64,
    /// Written as `null` in every event except `done`, whatever is here.
    pub artifacts: &'a [Artifact<'a>],
    pub error: Option<&'a str>,
    /// A JSON object, in the client's own bytes. `None` if the client sent none: written as `null`.
    pub metadata: Option<&'a str>,
}

impl Event<'_> {
    /// The bytes to sign and to send.
    pub fn to_json(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(self.about_its_size());
        serde_json::to_writer(&mut body, self).expect("strings, numbers and raw JSON always serialise");
        body
    }

    /// An estimate in bytes. A buffer that grows by doubling would take twice the size of the body, and three times
    /// while it grows.
    fn about_its_size(&self) -> usize {
        let inline = |artifact: &Artifact<'_>| match &artifact.content {
            // The completion is there twice: as the result, and as the text of an artifact. That text has about one
            // quotation mark in eight characters, each with a backslash.
            ArtifactContent::Data(text) => 2 * text.len() + text.len() / 8,
            ArtifactContent::Url(url) => url.len(),
        };
        let artifacts: usize = self.artifacts.iter().map(inline).sum();
        1_024 + artifacts + self.metadata.map_or(0, str::len)
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
        body.serialize_field("result", &artifacts.and_then(result))?;
        body.serialize_field("artifacts", &artifacts)?;
        body.serialize_field("error", &self.error)?;
        body.serialize_field("metadata", &self.metadata.and_then(raw))?;
        body.end()
    }
}

/// Something that a job made, with its bytes or with the URL of its bytes.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Artifact<'a> {
    pub name: &'a str,
    pub content_type: &'a str,
    /// Bytes.
    pub size: i64,
    /// Written as lower-case hex.
    #[serde(serialize_with = "as_hex")]
    pub sha256: &'a [u8],
    #[serde(flatten)]
    pub content: ArtifactContent<'a>,
}

/// Either `data` or `url`. The other field is absent, not `null`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ArtifactContent<'a> {
    /// The bytes, as a JSON string.
    Data(&'a str),
    Url(String),
}

impl<'a> ArtifactContent<'a> {
    /// Inline if the bytes are here and can be a JSON string; by `url` otherwise. The store reads no bytes above the
    /// inline limit.
    pub fn choose(bytes: Option<&'a [u8]>, url: impl FnOnce() -> String) -> Self {
        match bytes.map(std::str::from_utf8) {
            Some(Ok(text)) => Self::Data(text),
            _ => Self::Url(url()),
        }
    }
}

/// Ollama's answer as one JSON object, in Ollama's own bytes. `None` if it is larger than the inline limit, or if it is
/// a stream as the caller of a sync call got it.
pub fn result<'a>(artifacts: &[Artifact<'a>]) -> Option<&'a RawValue> {
    let completion = artifacts.iter().find(|artifact| artifact.name == COMPLETION)?;
    match completion.content {
        ArtifactContent::Data(text) if is_json(completion.content_type) => raw(text),
        _ => None,
    }
}

/// Whether the type is `application/json`, whatever its parameters.
fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

/// JSON that is written byte for byte as it came. `None` if it is not JSON.
pub fn raw(json: &str) -> Option<&RawValue> {
    serde_json::from_str(json).ok()
}

fn as_hex<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&hex::encode(bytes))
}

/// The URL at which the api serves an artifact: absolute if there is a public base, otherwise relative.
///
/// The name needs no escaping, because Foreman itself gives artifacts their names.
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
            artifacts: &[],
            error: None,
            metadata: None,
        }
    }

    fn body(event: &Event<'_>) -> String {
        String::from_utf8(event.to_json()).unwrap()
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
        let artifacts = [Artifact {
            name: "completion",
            content_type: "application/json",
            size: 26,
            sha256: b"\xab\x12",
            content: ArtifactContent::Data("{\"a\":\"é\", \"count\":1.0e1}"),
        }];
        let event = Event {
            seq: 4,
            state: "done",
            previous_state: Some("working"),
            attempt: 1,
            artifacts: &artifacts,
            metadata: Some(r#"{ "z": 1, "a": "\u0000é" }"#),
            ..event()
        };
        assert_eq!(
            body(&event),
            r#"{"type":"job.done","job_id":"01JD9Q3Z8Y7V6W5X4T3S2R1Q0P","seq":4,"state":"done","previous_state":"working","timestamp":"2026-10-14T17:46:40.123Z","model":"tiny-a","attempt":1,"result":{"a":"é", "count":1.0e1},"artifacts":[{"name":"completion","content_type":"application/json","size":26,"sha256":"ab12","data":"{\"a\":\"é\", \"count\":1.0e1}"}],"error":null,"metadata":{ "z": 1, "a": "\u0000é" }}"#
        );
    }

    #[test]
    fn only_a_completion_that_is_json_is_the_result() {
        let result_of = |content_type| {
            let content = ArtifactContent::Data("{\"done\":true}");
            let completion =
                Artifact { name: COMPLETION, content_type, size: 13, sha256: b"\xab\x12", content };
            let body = Event { state: "done", artifacts: &[completion], ..event() }.to_json();
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(body["artifacts"][0]["data"], r#"{"done":true}"#);
            body["result"].to_string()
        };
        for json in ["application/json", "application/json; charset=utf-8", "Application/JSON;charset=utf-8"]
        {
            assert_eq!(result_of(json), r#"{"done":true}"#, "{json}");
        }
        for stream in ["application/x-ndjson", "text/event-stream", "application/json-seq", ""] {
            assert_eq!(result_of(stream), "null", "{stream}");
        }
    }

    #[test]
    fn a_large_artifact_goes_by_url_and_has_no_data() {
        let artifacts = [Artifact {
            name: "completion",
            content_type: "application/json",
            size: 300_000,
            sha256: b"\xab\x12",
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
        assert!(body["result"].is_null());
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
            name: "completion",
            content_type: "application/json",
            size: 2,
            sha256: b"\xab\x12",
            content: ArtifactContent::Data("{}"),
        }];
        for state in ["queued", "loading", "working", "failed", "cancelled", "expired"] {
            let body = body(&Event { state, artifacts: &artifacts, ..event() });
            assert!(body.contains(r#""result":null,"artifacts":null"#), "{state}");
        }
        assert!(body(&Event { state: "done", ..event() }).contains(r#""artifacts":[]"#));
    }

    #[test]
    fn content_is_inline_if_it_is_here_and_is_text() {
        let choose = |bytes| ArtifactContent::choose(bytes, || "/url".to_owned());
        assert_eq!(choose(Some(b"abcd")), ArtifactContent::Data("abcd"));
        assert_eq!(choose(None), ArtifactContent::Url("/url".to_owned()));
        assert_eq!(choose(Some(b"\xff")), ArtifactContent::Url("/url".to_owned()));
        assert_eq!(choose(Some(b"")), ArtifactContent::Data(""));
    }

    #[test]
    fn artifact_urls_are_relative_without_a_public_base() {
        assert_eq!(artifact_url(None, "01J", "completion"), "/jobs/01J/artifacts/completion");
        assert_eq!(artifact_url(Some("http://a/base/"), "01J", "c"), "http://a/base/jobs/01J/artifacts/c");
    }
}
