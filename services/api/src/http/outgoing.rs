//! Sends answers: counts their bytes against the client's share of memory until the client has read them, and breaks off an
//! answer that the client reads too slowly.
//!
//! An artifact is read and sent in pieces, and only its pieces are in memory. An answer that cannot be completed breaks its
//! connection, because an answer that is cut off must not look complete.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use foreman_store::ClientId;
use futures_util::stream::{self, Stream, StreamExt};
use tokio::time::Instant;

use crate::access::shares::{Holding, Resource};
use crate::app::App;
use crate::http::etag;
use crate::refusal::Refusal;

pub(crate) const OUTGOING: Resource = Resource {
    name: "outgoing",
    code: "too_much_unread",
    error: "this client has as many unread bytes of answers as one client may have; read them first",
};

pub(crate) const EVENTS: Resource = Resource {
    name: "events",
    code: "too_much_unread",
    error: "this client has as many unread bytes of event streams as one client may have; read them first",
};

/// The answers of all clients together may hold this many bytes, and so may the event streams beside them.
pub(crate) const ANSWER_BYTES: usize = 256 << 20;
pub(crate) const STREAM_BYTES: usize = 64 << 20;

/// The bytes of an answer up to this size are not counted. The buffers of a connection hold as much anyway. So a client can ask
/// for the state of a job even when it has not read other answers.
const SMALL: usize = 16 << 10;

/// The connection gets this many bytes at a time. Between two slices we check how fast the client reads.
const SLICE: usize = 64 << 10;

/// A client may take a minute for any answer. A longer answer must be read at 16 KiB per second (128 kbit/s) on average. A slower
/// client can read an artifact by ranges, and each range has its own minute. So the largest artifact, 64 MiB, holds its memory
/// for at most 70 minutes. Without this limit it could hold it for days.
const GRACE: Duration = Duration::from_secs(60);
const SLOWEST: u64 = 16 << 10;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A piece of an answer, and the holding that counts its bytes.
pub(crate) struct Outgoing {
    data: Vec<u8>,
    _held: Arc<Holding>,
}

impl Outgoing {
    /// The holding is given back when the client has taken all pieces that share it.
    pub(crate) fn bytes(data: Vec<u8>, held: Arc<Holding>) -> Bytes {
        Bytes::from_owner(Self { data, _held: held })
    }
}

impl AsRef<[u8]> for Outgoing {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

/// A short answer in JSON, without an account of its bytes.
pub(crate) fn small_json(status: StatusCode, json: Vec<u8>) -> Response {
    (status, [(header::CONTENT_TYPE, JSON)], json).into_response()
}

/// An answer in JSON, or a refusal if the client's share of memory has no room for it.
pub(crate) fn json(
    app: &App,
    client: ClientId,
    status: StatusCode,
    json: Vec<u8>,
) -> Result<Response, Refusal> {
    let length = json.len();
    let body = if length <= SMALL {
        Body::from(json)
    } else {
        let held = Arc::new(app.outgoing.take(client, length)?);
        let whole = Outgoing::bytes(json, held);
        body(stream::once(async { Ok(whole) }))
    };
    let headers = [(header::CONTENT_TYPE, JSON), (header::CONTENT_LENGTH, length.into())];
    Ok((status, headers, body).into_response())
}

/// The same as [`json`] with an `ETag`, or 304 if the client has this answer already.
pub(crate) fn json_unless_known(
    app: &App,
    client: ClientId,
    request: &HeaderMap,
    json: Vec<u8>,
) -> Result<Response, Refusal> {
    let tag = etag::tag_of(&json);
    if let Some(known) = etag::unless_known(request, &tag) {
        return Ok(known);
    }
    let mut response = self::json(app, client, StatusCode::OK, json)?;
    etag::add_tag(&mut response, tag);
    Ok(response)
}

/// The body of an answer that comes in pieces. If a piece is an error, or the client reads too slowly, the body ends with an
/// error and the connection breaks.
pub(crate) fn body(pieces: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Body {
    let slices = pieces.flat_map(|piece| {
        let mut slices = Vec::new();
        match piece {
            Ok(mut piece) => {
                while !piece.is_empty() {
                    slices.push(Ok(piece.split_to(SLICE.min(piece.len()))));
                }
            }
            Err(error) => slices.push(Err(error)),
        }
        stream::iter(slices)
    });
    let mut pace = ReadingPace { began: Instant::now(), bytes: 0 };
    Body::from_stream(slices.map(move |slice| {
        let slice = slice?;
        pace.next(slice.len())?;
        Ok::<_, io::Error>(slice)
    }))
}

/// How fast a client reads an answer.
struct ReadingPace {
    began: Instant,
    /// Bytes that the connection got so far.
    bytes: u64,
}

impl ReadingPace {
    /// The connection asks for this many bytes more, so the client has read nearly all bytes before. Fails if it took too long.
    fn next(&mut self, bytes: usize) -> io::Result<()> {
        if self.began.elapsed() > GRACE + Duration::from_secs(self.bytes / SLOWEST) {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the client reads too slowly"));
        }
        self.bytes += bytes as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use tokio::time::advance;

    use super::*;

    /// Reads an answer of 8 MiB, with this wait after each slice. Gives the bytes that came, as an error if the answer broke.
    async fn read(wait: Duration) -> Result<usize, usize> {
        let pieces = (0..8).map(|_| Ok(Bytes::from(vec![0; 1 << 20])));
        let mut body = body(stream::iter(pieces));
        let mut read = 0;
        while let Some(frame) = body.frame().await {
            read += frame.map_err(|_| read)?.into_data().map_or(0, |data| data.len());
            advance(wait).await;
        }
        Ok(read)
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_too_slowly_is_cut_off_and_one_on_a_slow_line_is_not() {
        assert_eq!(read(Duration::from_secs(4)).await, Ok(8 << 20), "16 KiB a second");
        let slower = read(Duration::from_secs(5)).await.unwrap_err();
        assert!((1 << 19..4 << 20).contains(&slower), "13 KiB a second: {slower}");
        let silent = read(Duration::from_secs(65)).await.unwrap_err();
        assert_eq!(silent, SLICE);
    }

    #[tokio::test]
    async fn a_missing_piece_breaks_the_answer() {
        let pieces = [Ok(Bytes::from_static(b"ab")), Err(io::ErrorKind::UnexpectedEof.into())];
        let mut body = body(stream::iter(pieces));
        assert!(body.frame().await.unwrap().is_ok());
        assert!(body.frame().await.unwrap().is_err());
    }
}
