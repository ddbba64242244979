//! The forms of answers on the wire: content types, plain texts and errors, as Ollama's router sends them.

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::Stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};

use crate::replies;

/// The connection is to be reset instead of answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut;

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the simulator was told to cut this connection")
    }
}

impl std::error::Error for Cut {}

pub(crate) type Body = UnsyncBoxBody<Bytes, Cut>;
pub(crate) type ResponseOrCut = Result<Response<Body>, Cut>;

const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");
/// What the routes of `/v1` say, which write their answers themselves.
const JSON_BARE: HeaderValue = HeaderValue::from_static("application/json");
pub(crate) const LINES: HeaderValue = HeaderValue::from_static("application/x-ndjson");
pub(crate) const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream");
const PLAIN: HeaderValue = HeaderValue::from_static("text/plain");
const PLAIN_UTF8: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

pub(crate) fn json(body: impl Into<Bytes>) -> Response<Body> {
    answer(StatusCode::OK, Some(JSON), body)
}

/// JSON with a status.
pub(crate) fn json_with(status: u16, body: String) -> Response<Body> {
    answer(known(status), Some(JSON), body)
}

/// JSON as the routes of `/v1` write it: with a line break, and without a word about the character set.
pub(crate) fn json_line(status: u16, mut body: String) -> Response<Body> {
    body.push('\n');
    answer(known(status), Some(JSON_BARE), body)
}

pub(crate) fn error(status: u16, text: &str) -> Response<Body> {
    json_with(status, replies::error(text))
}

fn known(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

pub(crate) fn running() -> Response<Body> {
    answer(StatusCode::OK, Some(PLAIN_UTF8), "Ollama is running")
}

pub(crate) fn not_found() -> Response<Body> {
    answer(StatusCode::NOT_FOUND, Some(PLAIN), "404 page not found")
}

pub(crate) fn wrong_method(allowed: &'static str) -> Response<Body> {
    let mut answer = answer(StatusCode::METHOD_NOT_ALLOWED, Some(PLAIN), "405 method not allowed");
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    answer
}

pub(crate) fn bare(status: StatusCode) -> Response<Body> {
    answer(status, None, Bytes::new())
}

pub(crate) fn stream(
    kind: HeaderValue,
    stream: impl Stream<Item = Result<Bytes, Cut>> + Send + 'static,
) -> Response<Body> {
    let mut answer =
        Response::new(StreamBody::new(stream.map(|piece| piece.map(Frame::data))).boxed_unsync());
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    answer
}

fn answer(status: StatusCode, kind: Option<HeaderValue>, body: impl Into<Bytes>) -> Response<Body> {
    let mut answer = Response::new(Full::new(body.into()).map_err(|never| match never {}).boxed_unsync());
    *answer.status_mut() = status;
    if let Some(kind) = kind {
        answer.headers_mut().insert(CONTENT_TYPE, kind);
    }
    answer
}

/// A body that breaks off comes from a client that is gone.
pub(crate) async fn read(body: Incoming) -> Result<Bytes, Cut> {
    let body = body.collect().await.map_err(|_| Cut)?.to_bytes();
    // A copy, because the log would otherwise keep the whole buffer of the connection.
    Ok(Bytes::copy_from_slice(&body))
}
