//! Reading a request's body: bounded in size, in time and in memory, whatever its sender announces or withholds.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout, timeout_at};

use crate::app::Shared;
use crate::memory::{Held, Memory};
use crate::problem::Problem;

/// Longest silence in the middle of a body.
const SILENCE: Duration = Duration::from_secs(15);

/// Longest time for a whole body: 32 MiB at 1 Mbit/s.
const WHOLE: Duration = Duration::from_secs(300);

/// A body that has been read, and the memory it holds.
pub(crate) struct Bounded {
    pub(crate) bytes: Bytes,
    pub(crate) held: Held,
}

impl FromRequest<Shared> for Bounded {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &Shared) -> Result<Self, Problem> {
        read(request.into_body(), app.max_body, &app.incoming).await
    }
}

async fn read(mut body: Body, limit: usize, memory: &Memory) -> Result<Bounded, Problem> {
    // What Content-Length announces is known before a byte has come.
    let announced = axum::body::HttpBody::size_hint(&body).lower();
    if announced > limit as u64 {
        return Err(too_large(limit));
    }
    let deadline = Instant::now() + WHOLE;
    let mut bytes = BytesMut::new();
    let mut held = memory.take(0)?;
    loop {
        let frame = timeout_at(deadline, timeout(SILENCE, body.frame())).await;
        let Ok(Ok(frame)) = frame else { return Err(too_slow()) };
        let Some(frame) = frame else { break };
        // Trailers mean nothing to us.
        let Ok(data) = frame.map_err(|_| incomplete())?.into_data() else { continue };
        if bytes.len() + data.len() > limit {
            return Err(too_large(limit));
        }
        held.merge(memory.take(data.len())?);
        bytes.extend_from_slice(&data);
    }
    Ok(Bounded { bytes: bytes.freeze(), held })
}

fn too_large(limit: usize) -> Problem {
    Problem::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "body_too_large",
        format!("the body is larger than {limit} bytes; send a smaller one, or have FOREMAN_MAX_BODY raised"),
    )
}

fn too_slow() -> Problem {
    Problem::new(
        StatusCode::REQUEST_TIMEOUT,
        "body_too_slow",
        "the body did not arrive in time; send it without pauses",
    )
}

fn incomplete() -> Problem {
    Problem::bad_request("body_incomplete", "the body ended before it was complete; send it again")
}

#[cfg(test)]
mod tests {
    use super::*;

    use futures_util::stream;

    async fn read_chunks(chunks: &[&'static str], limit: usize) -> Result<String, StatusCode> {
        let chunks: Vec<Result<_, std::io::Error>> = chunks.iter().map(|chunk| Ok(*chunk)).collect();
        let read = read(Body::from_stream(stream::iter(chunks)), limit, &Memory::new(1_000)).await;
        let answer = |problem: Problem| axum::response::IntoResponse::into_response(problem).status();
        read.map(|body| String::from_utf8(body.bytes.to_vec()).unwrap()).map_err(answer)
    }

    #[tokio::test]
    async fn a_body_is_read_up_to_its_limit() {
        assert_eq!(read_chunks(&["ab", "", "cd"], 4).await.as_deref(), Ok("abcd"));
        assert_eq!(read_chunks(&["ab", "cde"], 4).await, Err(StatusCode::PAYLOAD_TOO_LARGE));
        assert_eq!(read_chunks(&[], 4).await.as_deref(), Ok(""));
    }

    #[tokio::test]
    async fn an_announced_length_is_refused_before_a_byte_has_come() {
        let refused = read(Body::from("abcde"), 4, &Memory::new(1_000)).await;
        assert!(refused.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_sender_is_given_up() {
        let silent = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
        assert!(read(silent, 4, &Memory::new(1_000)).await.is_err());
    }

    #[tokio::test]
    async fn a_full_memory_refuses_more() {
        let memory = Memory::new(6);
        let first = read(Body::from("abcd"), 10, &memory).await.unwrap_or_else(|_| panic!("there is room"));
        assert!(read(Body::from("abcd"), 10, &memory).await.is_err());
        drop(first);
        assert!(read(Body::from("abcd"), 10, &memory).await.is_ok());
    }
}
