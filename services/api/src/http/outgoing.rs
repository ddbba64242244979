//! Bytes on their way out: the memory that they hold until the client has taken them, and how slowly it may take them.
//!
//! A place is never held for a whole artifact: it is read and sent in pieces. What ends too early ends the connection with
//! it, for an answer that is cut off must not look complete.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use foreman_store::ClientId;
use futures_util::stream::{self, Stream, StreamExt};
use tokio::time::Instant;

use crate::access::shares::{Bounds, Held, Resource};
use crate::app::App;
use crate::http::answer;
use crate::refusal::Refusal;

pub(crate) const OUTGOING: Resource = Resource {
    name: "outgoing",
    code: "too_much_unread",
    error: "this client has not read as many bytes of answers as one client may leave unread; read them first",
};

pub(crate) const EVENTS: Resource = Resource {
    name: "events",
    code: "too_much_unread",
    error: "this client has not read as many bytes of its event streams as one client may leave unread; read them first",
};

/// Bytes of answers, and of event streams beside them, that may be held for all clients together.
const ANSWERS: usize = 256 << 20;
const STREAMS: usize = 64 << 20;

/// An answer up to this size is in no account: so much lies in the buffers of a connection anyway, and whoever asks how
/// a job stands gets an answer even where another answer waits to be read.
const SMALL: usize = 16 << 10;

/// What is handed to the connection at a time. Between two of them we see how fast the client reads.
const SLICE: usize = 64 << 10;

/// A client may take a minute for anything, and beyond that as long as it reads 16 KiB a second (128 kbit/s) on average.
/// Below that it gets an artifact by ranges, each of which has its own minute. The largest artifact, 64 MiB, can so hold
/// its place for 70 minutes at most; without a floor it could for days.
const GRACE: Duration = Duration::from_secs(60);
const SLOWEST: u64 = 16 << 10;

pub(crate) fn answers() -> Bounds {
    Bounds::quarters(ANSWERS)
}

pub(crate) fn streams() -> Bounds {
    Bounds::quarters(STREAMS)
}

/// Bytes, and the memory that they hold.
pub(crate) struct Outgoing {
    data: Vec<u8>,
    _held: Arc<Held>,
}

impl Outgoing {
    /// `held` is given back when the client has taken all bytes that share it.
    pub(crate) fn bytes(data: Vec<u8>, held: Arc<Held>) -> Bytes {
        Bytes::from_owner(Self { data, _held: held })
    }
}

impl AsRef<[u8]> for Outgoing {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

/// An answer in JSON, if the client has room for it.
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
    let headers = [(header::CONTENT_TYPE, answer::JSON), (header::CONTENT_LENGTH, length.into())];
    Ok((status, headers, body).into_response())
}

/// The same with an `ETag` of its bytes, or 304 if the client has them.
pub(crate) fn json_unless_known(
    app: &App,
    client: ClientId,
    request: &HeaderMap,
    json: Vec<u8>,
) -> Result<Response, Refusal> {
    let tag = answer::tag_of(&json);
    if let Some(known) = answer::unless_known(request, &tag) {
        return Ok(known);
    }
    let mut response = self::json(app, client, StatusCode::OK, json)?;
    answer::tell_tag(&mut response, tag);
    Ok(response)
}

/// The body of an answer that comes in pieces. It ends in an error, and the connection with it, if a piece is one or if
/// the client reads too slowly.
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
    let mut reading = Reading { began: Instant::now(), bytes: 0 };
    Body::from_stream(slices.map(move |slice| {
        let slice = slice?;
        reading.go_on(slice.len())?;
        Ok::<_, io::Error>(slice)
    }))
}

/// How fast a client takes an answer.
struct Reading {
    began: Instant,
    /// What was handed to the connection.
    bytes: u64,
}

impl Reading {
    /// The client has taken what it was handed, or nearly all, and is handed so many bytes more.
    fn go_on(&mut self, bytes: usize) -> io::Result<()> {
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

    /// Reads an answer of 8 MiB, each slice after such a wait; how much came before it broke, or that it did not.
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
    async fn a_client_that_reads_too_slowly_is_cut_off_and_a_thin_one_is_not() {
        assert_eq!(read(Duration::from_secs(4)).await, Ok(8 << 20), "16 KiB a second");
        let slower = read(Duration::from_secs(5)).await.unwrap_err();
        assert!((1 << 19..4 << 20).contains(&slower), "13 KiB a second: {slower}");
        let silent = read(Duration::from_secs(65)).await.unwrap_err();
        assert_eq!(silent, SLICE);
    }

    #[tokio::test]
    async fn a_piece_that_is_missing_breaks_the_answer() {
        let pieces = [Ok(Bytes::from_static(b"ab")), Err(io::ErrorKind::UnexpectedEof.into())];
        let mut body = body(stream::iter(pieces));
        assert!(body.frame().await.unwrap().is_ok());
        assert!(body.frame().await.unwrap().is_err());
    }
}
