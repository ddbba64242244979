//! Reads the answer of one attempt from the worker that runs it, frame by frame.
//!
//! The worker keeps the answer, so a caller that reads slowly only falls behind. Nothing gathers here.

use std::io;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use foreman_live::{ANSWERS, Frame, FrameError, Frames};
use foreman_store::JobId;
use futures_util::stream::{BoxStream, StreamExt as _, TryStreamExt as _};
use reqwest::{Method, StatusCode};
use tokio::time::timeout;
use tokio_util::codec::FramedRead;
use tokio_util::io::StreamReader;

use crate::workers::Workers;

/// A worker answers at once with a head, whatever its attempt does.
const HEAD_WITHIN: Duration = Duration::from_secs(5);

type Incoming = StreamReader<BoxStream<'static, io::Result<Bytes>>, Bytes>;

/// The answer of one attempt, from some byte on.
pub(crate) struct Following {
    frames: Pin<Box<FramedRead<Incoming, Frames>>>,
}

/// Why the answer cannot be read from a worker.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FollowError {
    /// The worker has no such attempt, or has it no longer.
    #[error("the worker does not run this attempt any more")]
    Gone,
    #[error(
        "the worker refused to give out an answer ({0}): do api and worker have the same FOREMAN_SECRET_KEY?"
    )]
    Refused(StatusCode),
    #[error("the worker did not answer")]
    Silent,
    #[error("the worker could not be reached")]
    Unreached(#[from] reqwest::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("the worker was lost in the middle of an answer")]
    BrokenOff,
}

impl Following {
    /// Asks a worker for the answer of an attempt from this byte on.
    pub(crate) async fn open(
        workers: &Workers,
        url: &str,
        job: JobId,
        attempt: i32,
        from: u64,
    ) -> Result<Self, FollowError> {
        let path = format!("{ANSWERS}/{job}?attempt={attempt}&from={from}");
        let answer = timeout(HEAD_WITHIN, workers.request(Method::GET, url, &path).send());
        let answer = answer.await.map_err(|_| FollowError::Silent)?.map_err(reqwest::Error::without_url)?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Err(FollowError::Gone),
            other => return Err(FollowError::Refused(other)),
        }
        let bytes = answer.bytes_stream().map_err(io::Error::other).boxed();
        let frames = FramedRead::new(StreamReader::new(bytes), Frames::default());
        Ok(Self { frames: Box::pin(frames) })
    }

    /// The next frame. May be dropped and called again. After [`Frame::End`] nothing comes.
    pub(crate) async fn next(&mut self) -> Result<Frame, FollowError> {
        Ok(self.frames.next().await.ok_or(FollowError::BrokenOff)??)
    }
}
