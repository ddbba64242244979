//! Server-sent events, as the HTML standard defines them: whether a client wants them, the last event that it has seen, and how
//! an event is written.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream::Stream;

use crate::refusal::Refusal;

pub(crate) const CONTENT_TYPE: &str = "text/event-stream";

/// An empty comment. It shows that a connection without news is alive.
pub(crate) const HEARTBEAT: &str = ":\n\n";

/// Tells the client to come back one second after the end of a stream.
pub(crate) const COME_BACK: &str = "retry: 1000\n\n";

/// The time between two signs of life. Proxies cut connections that are silent for a minute, and some after half a minute.
pub(crate) const HEARTBEAT_EVERY: Duration = Duration::from_secs(15);

/// The longest stream. A client that follows for longer comes back with `Last-Event-ID`, and its key is checked again.
pub(crate) const LONGEST: Duration = Duration::from_secs(15 * 60);

/// A stream of events.
pub(crate) fn response(events: impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static) -> Response {
    let headers = [
        (header::CONTENT_TYPE, CONTENT_TYPE),
        (header::CACHE_CONTROL, "no-store"),
        // A proxy that buffers answers would delay the events.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (headers, Body::from_stream(events)).into_response()
}

/// Whether a client wants a stream of events. It must name the type in `Accept`: `*/*` is not enough.
pub(crate) fn is_wanted(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(header::ACCEPT).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let is_named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(CONTENT_TYPE));
        let is_refused = parts.any(|parameter| {
            let weight = parameter.split_once('=').filter(|(name, _)| name.trim().eq_ignore_ascii_case("q"));
            weight.is_some_and(|(_, weight)| weight.trim().parse() == Ok(0.0_f32))
        });
        is_named && !is_refused
    })
}

/// The id of the last event that the client has seen. `None` if it has seen none.
pub(crate) fn last_event_id(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let mut ids = headers.get_all("last-event-id").iter();
    let Some(id) = ids.next() else { return Ok(None) };
    match id.to_str().ok().map(str::trim) {
        _ if ids.next().is_some() => Err(not_an_id()),
        // Browsers send an empty id after a stream that had no ids yet.
        Some("") => Ok(None),
        Some(id) => Ok(Some(id)),
        None => Err(not_an_id()),
    }
}

pub(crate) fn not_an_id() -> Refusal {
    let error = "Last-Event-ID must be the id of an event of this stream; leave it out to get all of them";
    Refusal::bad_request("invalid_last_event_id", error)
}

/// Writes one event. JSON may have line breaks between its tokens, and each of them begins another `data` line.
pub(crate) fn write(stream: &mut Vec<u8>, id: impl std::fmt::Display, data: &[u8]) {
    stream.extend_from_slice(format!("id: {id}\n").as_bytes());
    for line in data.split(|byte| matches!(byte, b'\n' | b'\r')) {
        stream.extend_from_slice(b"data: ");
        stream.extend_from_slice(line);
        stream.push(b'\n');
    }
    stream.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: header::HeaderName, values: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(&name, header::HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn only_a_client_that_names_the_type_gets_a_stream() {
        for values in [
            &["text/event-stream"][..],
            &["Text/Event-Stream"],
            &["application/json, text/event-stream;q=0.5"],
            &["*/*", "text/event-stream; charset=utf-8"],
        ] {
            assert!(is_wanted(&headers(header::ACCEPT, values)), "{values:?}");
        }
        for values in [&[][..], &["*/*"], &["text/*"], &["application/json"], &["text/event-stream;q=0"]] {
            assert!(!is_wanted(&headers(header::ACCEPT, values)), "{values:?}");
        }
    }

    #[test]
    fn a_last_event_id_is_given_once_or_not_at_all() {
        let read = |values: &[&'static str]| {
            let headers = headers(header::HeaderName::from_static("last-event-id"), values);
            last_event_id(&headers).map(|id| id.map(str::to_owned)).ok()
        };
        assert_eq!(read(&[]), Some(None));
        assert_eq!(read(&[""]), Some(None));
        assert_eq!(read(&[" 7 "]), Some(Some("7".to_owned())));
        assert_eq!(read(&["1", "2"]), None);
    }

    #[test]
    fn line_breaks_between_tokens_do_not_end_an_event() {
        let mut stream = Vec::new();
        write(&mut stream, 3, b"{\n\"a\":\r\n1}");
        assert_eq!(stream, b"id: 3\ndata: {\ndata: \"a\":\ndata: \ndata: 1}\n\n");
    }
}
