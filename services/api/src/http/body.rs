//! Reads the body of a request, within limits of size, time and memory. The limits hold whether the sender announces a length
//! or not.

use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::StatusCode;
use bytes::Bytes;
use foreman_store::ClientId;
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};

use crate::access::shares::{Bounds, Holding, Resource, Shares};
use crate::app::App;
use crate::refusal::Refusal;

pub(crate) const INCOMING: Resource = Resource {
    name: "incoming",
    code: "too_much_under_way",
    error: "this client has as many bytes of requests under way as one client may have; wait for answers, then go on",
};

/// The memory for the bodies of all clients together.
const WHOLE: usize = 256 << 20;

/// A body is small up to this size. Nearly all bodies are, and large bodies never keep a small one out.
const SMALL: usize = 64 << 10;

/// Only small bodies may use this part of the memory. It holds 256 bodies of the largest small size.
const RESERVE: usize = 16 << 20;

/// A body must come at this many bytes per second at least. This is 64 kbit/s, which even the slowest lines reach.
const SLOWEST: usize = 8 << 10;

/// A sender may fall behind that pace by this much, by pauses or by slowness.
const PATIENCE: Duration = Duration::from_secs(15);

/// A whole body must come within this time. It is enough for 32 MiB at 1 Mbit/s.
const LONGEST: Duration = Duration::from_secs(300);

/// How clients share the memory, if a body has at most `max_body` bytes. A client's part has room for the largest body twice,
/// because the jobs of a batch are in memory beside the batch's body.
pub(crate) fn bounds(max_body: usize) -> Bounds {
    let part = (2 * max_body).max(WHOLE / 4);
    Bounds { whole: (2 * part).max(WHOLE), part, reserve: RESERVE, small: SMALL }
}

/// A body that was read, and the memory that it holds.
#[derive(Debug)]
pub(crate) struct Bounded {
    pub(crate) bytes: Bytes,
    pub(crate) held: Holding,
}

/// Reads the body of a request, at the expense of this client's memory.
pub(crate) async fn read(app: &App, client: ClientId, body: Body) -> Result<Bounded, Refusal> {
    read_within(body, app.max_body, &app.incoming, client).await
}

async fn read_within(
    mut body: Body,
    limit: usize,
    memory: &Shares,
    client: ClientId,
) -> Result<Bounded, Refusal> {
    // Content-Length announces the size before the first byte comes.
    let announced = body.size_hint();
    if announced.lower() > limit as u64 {
        return Err(too_large(limit));
    }
    // Take the memory for all of it now, so that a client without room for it is refused before it has sent anything.
    let announced = announced.exact().and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(0);
    let mut held = memory.take(client, announced)?;
    let mut bytes = Vec::with_capacity(announced);
    let mut pace = Pace::new();
    while let Some(frame) = timeout_at(pace.deadline(), body.frame()).await.map_err(|_| too_slow())? {
        // We ignore trailers.
        let Ok(data) = frame.map_err(|_| incomplete())?.into_data() else { continue };
        pace.came(data.len());
        let needed = bytes.len() + data.len();
        if needed > limit {
            return Err(too_large(limit));
        }
        if needed > bytes.capacity() {
            // No length was announced, or more came than announced.
            let room = (2 * needed).min(limit);
            held.grow(room - bytes.capacity())?;
            bytes.reserve_exact(room - bytes.len());
        }
        bytes.extend_from_slice(&data);
    }
    Ok(Bounded { bytes: bytes.into(), held })
}

/// Checks whether a body comes fast enough. Each byte gives the sender more time, at the pace of `SLOWEST`, but never more than
/// `PATIENCE` from now. So a sender that was fast at first must not become slow later.
struct Pace {
    begun: Instant,
    next_by: Instant,
}

impl Pace {
    fn new() -> Self {
        let begun = Instant::now();
        Self { begun, next_by: begun + PATIENCE }
    }

    fn came(&mut self, bytes: usize) {
        let bought = Duration::from_secs_f64(bytes as f64 / SLOWEST as f64);
        self.next_by = (self.next_by + bought).min(Instant::now() + PATIENCE);
    }

    fn deadline(&self) -> Instant {
        self.next_by.min(self.begun + LONGEST)
    }
}

fn too_large(limit: usize) -> Refusal {
    Refusal::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "body_too_large",
        format!("the body is larger than {limit} bytes; send a smaller one, or have FOREMAN_MAX_BODY raised"),
    )
}

fn too_slow() -> Refusal {
    let error = format!(
        "the body came too slowly; send at least {} KiB a second, without pauses of {} s, and all of it within {} s",
        SLOWEST >> 10,
        PATIENCE.as_secs(),
        LONGEST.as_secs(),
    );
    Refusal::new(StatusCode::REQUEST_TIMEOUT, "body_too_slow", error)
}

fn incomplete() -> Refusal {
    Refusal::bad_request("body_incomplete", "the body ended before it was complete; send it again")
}

#[cfg(test)]
mod tests {
    use std::{io, iter};

    use futures_util::{StreamExt, stream};
    use tokio::time::sleep;

    use super::*;
    use crate::access::shares::tests::one_client_may_have;

    async fn read(body: Body, limit: usize, memory: &Shares) -> Result<Bounded, &'static str> {
        let read = read_within(body, limit, memory, ClientId::generate()).await;
        read.map_err(|refusal| refusal.code())
    }

    async fn read_chunks(chunks: &[&'static str], limit: usize) -> Result<String, &'static str> {
        let chunks: Vec<Result<_, io::Error>> = chunks.iter().map(|chunk| Ok(*chunk)).collect();
        let body = read(Body::from_stream(stream::iter(chunks)), limit, &one_client_may_have(1_000)).await?;
        Ok(String::from_utf8(body.bytes.to_vec()).unwrap())
    }

    /// A body that comes in steps. In each step, the sender waits for some seconds and then sends some bytes.
    fn paced(steps: impl IntoIterator<Item = (u64, usize), IntoIter: Send + 'static>) -> Body {
        let chunks = stream::iter(steps).then(async |(seconds, bytes)| {
            sleep(Duration::from_secs(seconds)).await;
            Ok::<_, io::Error>(vec![b'x'; bytes])
        });
        Body::from_stream(chunks)
    }

    #[tokio::test]
    async fn a_body_is_read_up_to_its_limit() {
        assert_eq!(read_chunks(&["ab", "", "cd"], 4).await.as_deref(), Ok("abcd"));
        assert_eq!(read_chunks(&["ab", "cde"], 4).await, Err("body_too_large"));
        assert_eq!(read_chunks(&[], 4).await.as_deref(), Ok(""));
    }

    #[tokio::test]
    async fn an_announced_length_is_refused_before_a_byte_has_come() {
        let refused = read(Body::from("abcde"), 4, &one_client_may_have(1_000)).await;
        assert_eq!(refused.unwrap_err(), "body_too_large");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_sender_is_refused() {
        let silent = Body::from_stream(stream::pending::<Result<Bytes, io::Error>>());
        assert_eq!(read(silent, 4, &one_client_may_have(1_000)).await.unwrap_err(), "body_too_slow");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_becomes_too_slow_is_refused() {
        let memory = one_client_may_have(1 << 30);
        for (first, seconds, bytes) in [(1, 1, 1), (32 << 20, 10, 1), (32 << 20, 1, 7 << 10)] {
            let begun = Instant::now();
            let trickle = paced(iter::once((0, first)).chain(iter::repeat((seconds, bytes))));
            assert_eq!(read(trickle, 1 << 30, &memory).await.unwrap_err(), "body_too_slow");
            assert!(begun.elapsed() < 10 * PATIENCE, "{:?}", begun.elapsed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_line_may_pause_but_not_go_on_forever() {
        let memory = one_client_may_have(1 << 30);
        let steady = iter::repeat((1, 8 << 10));
        let with_pauses = iter::repeat((14, 14 * (8 << 10)));
        for (line, steps) in [(steady.clone(), 250), (with_pauses, 20)] {
            let body = read(paced(line.take(steps)), 1 << 30, &memory).await;
            assert!(body.is_ok(), "{body:?}");
        }
        assert_eq!(read(paced(steady), 1 << 30, &memory).await.unwrap_err(), "body_too_slow");
    }

    #[tokio::test]
    async fn a_full_memory_refuses_more() {
        let unannounced = || paced([(0, 2), (0, 2)]);
        for body in [|| Body::from("abcd"), unannounced] {
            let memory = one_client_may_have(6);
            let first = read(body(), 4, &memory).await.unwrap();
            assert_eq!(read(body(), 4, &memory).await.unwrap_err(), "busy");
            drop(first);
            assert!(read(body(), 4, &memory).await.is_ok());
        }
    }
}
