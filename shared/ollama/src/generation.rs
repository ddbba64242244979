//! One running request, and its answer: the head, and then piece by piece exactly the bytes that Ollama sent.
//!
//! While the [`Generation`] lives, a task of its own reads from Ollama: a reader that stalls would keep the slot on
//! the GPU occupied. Pieces that were read wait here, up to a bound.
//!
//! The task must never wait for the consumer of the pieces.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::StreamExt as _;
use reqwest::{Request, Response, StatusCode, header};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinHandle;

use crate::classify::answer_failure;
use crate::client::{Client, MAX_ERROR};
use crate::failure::Failure;
use crate::pieces::{Cutter, Pieces};
use crate::route::Route;

/// The head of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerHead {
    pub status: u16,
    pub content_type: Option<String>,
    /// Given if Ollama announced the size.
    pub content_length: Option<u64>,
}

impl AnswerHead {
    fn of(answer: &Response) -> Self {
        let text = |name| answer.headers().get(name).and_then(|value| value.to_str().ok());
        Self {
            status: answer.status().as_u16(),
            content_type: text(header::CONTENT_TYPE).map(str::to_owned),
            content_length: text(header::CONTENT_LENGTH).and_then(|length| length.parse().ok()),
        }
    }

    /// Whether Ollama began to answer the request. Otherwise the answer is an error.
    pub fn is_success(&self) -> bool {
        self.status == StatusCode::OK
    }

    pub fn pieces(&self) -> Pieces {
        Pieces::of(self.content_type.as_deref().unwrap_or_default())
    }
}

/// The answer to one request. Dropping it hangs up.
#[derive(Debug)]
pub struct Generation {
    arrivals: UnboundedReceiver<Arrival>,
    unread: Arc<AtomicUsize>,
    reader: JoinHandle<()>,
    head: Option<AnswerHead>,
    error_body: Option<Bytes>,
}

/// One thing that came from Ollama, in the order in which it came.
#[derive(Debug)]
enum Arrival {
    Head(AnswerHead),
    Piece(Bytes),
    /// The body of an error answer.
    ErrorBody(Bytes),
    Failure(Failure),
}

impl Client {
    /// Sends a body unchanged and reads the answer to its end, however slowly the caller takes the pieces.
    ///
    /// Dropping the generation hangs up. The first piece arrives with the first token. So a timeout around the first
    /// [`Generation::next`] limits waiting, loading and prompt processing together. `max_unread` limits how many
    /// bytes may wait here unread.
    pub fn run(&self, route: Route, body: impl Into<Bytes>, max_unread: usize) -> Generation {
        Generation::start(self.clone(), self.post(route, body.into()), max_unread)
    }
}

impl Generation {
    fn start(client: Client, request: Request, max_unread: usize) -> Self {
        let (sender, arrivals) = mpsc::unbounded_channel();
        let unread = Arc::new(AtomicUsize::new(0));
        let reader = Reader { client, arrivals: sender, unread: Arc::clone(&unread), max_unread };
        let reader = tokio::spawn(reader.run(request));
        Self { arrivals, unread, reader, head: None, error_body: None }
    }

    /// The next piece, or `None` at the end of the answer: a line or an event with the bytes that end it, or all of an
    /// answer that is no stream. The end alone is no success: [`crate::Join`] and [`crate::Relayed`] check that.
    ///
    /// May be dropped and called again, as in a `select!` or a timeout.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            match self.arrivals.recv().await {
                Some(Arrival::Head(head)) => self.head = Some(head),
                Some(Arrival::ErrorBody(body)) => self.error_body = Some(body),
                Some(Arrival::Piece(piece)) => {
                    self.unread.fetch_sub(cost(&piece), Ordering::Relaxed);
                    return Ok(Some(piece));
                }
                Some(Arrival::Failure(failure)) => return Err(failure),
                None => return Ok(None),
            }
        }
    }

    /// The head of the answer, once [`Self::next`] has returned a piece or a failure that came after it.
    pub fn head(&self) -> Option<&AnswerHead> {
        self.head.as_ref()
    }

    /// The body of an error answer, once [`Self::next`] has returned its failure.
    pub fn error_body(&self) -> Option<&Bytes> {
        self.error_body.as_ref()
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

struct Reader {
    client: Client,
    arrivals: UnboundedSender<Arrival>,
    unread: Arc<AtomicUsize>,
    max_unread: usize,
}

impl Reader {
    async fn run(self, request: Request) {
        if let Err(failure) = self.read(request).await {
            self.send(Arrival::Failure(failure));
        }
    }

    async fn read(&self, request: Request) -> Result<(), Failure> {
        let answer = self.client.execute(request).await?;
        let head = AnswerHead::of(&answer);
        let (pieces, is_success) = (head.pieces(), head.is_success());
        self.send(Arrival::Head(head));
        if !is_success {
            let status = answer.status();
            let body = self.client.read_some(answer, MAX_ERROR).await?;
            let failure = answer_failure(&self.client.host().to_string(), status, &body);
            self.send(Arrival::ErrorBody(body));
            return Err(failure);
        }
        let mut bytes = answer.bytes_stream();
        let mut rest = Cutter::new(pieces);
        while let Some(more) = bytes.next().await {
            rest.push(&more.map_err(|error| self.client.lost(error))?);
            while let Some(piece) = rest.next_piece() {
                self.give(piece)?;
            }
            if rest.waiting() > self.max_unread {
                return Err(Failure::TooLarge { limit: self.max_unread });
            }
        }
        self.give(rest.end())
    }

    fn give(&self, piece: Bytes) -> Result<(), Failure> {
        if piece.is_empty() {
            return Ok(());
        }
        let unread = self.unread.fetch_add(cost(&piece), Ordering::Relaxed) + cost(&piece);
        if unread > self.max_unread {
            return Err(Failure::TooLarge { limit: self.max_unread });
        }
        self.send(Arrival::Piece(piece));
        Ok(())
    }

    fn send(&self, arrival: Arrival) {
        // Sending fails only if the generation was dropped. Then nobody needs the rest.
        _ = self.arrivals.send(arrival);
    }
}

/// The memory that one stored piece needs. It has a fixed part, so that a flood of tiny pieces is bounded too.
fn cost(piece: &Bytes) -> usize {
    piece.len() + size_of::<Arrival>()
}
