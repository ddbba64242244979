//! One running request: its answer, line by line.
//!
//! A task of its own reads from Ollama for as long as the [`Generation`] lives, because a reader that stalls keeps the slot
//! on the GPU taken. What it has read waits here, within a bound; the task never waits for whoever takes the lines.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use reqwest::Request;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinHandle;

use crate::client::Client;
use crate::failure::Failure;
use crate::route::Route;

/// The answer to one request. Dropping it hangs up.
#[derive(Debug)]
pub struct Generation {
    lines: UnboundedReceiver<Result<Bytes, Failure>>,
    unread: Arc<AtomicUsize>,
    reader: JoinHandle<()>,
}

impl Client {
    /// Sends a body as it is and reads the answer to its end, however slowly the caller takes it.
    ///
    /// Dropping the generation hangs up. The first line comes with the first token, so a timeout around the first
    /// [`Generation::next`] is a limit on waiting, loading and prompt together. `max_unread` bounds what may lie here
    /// unread, in bytes.
    pub fn run(&self, route: Route, body: impl Into<Bytes>, max_unread: usize) -> Generation {
        Generation::start(self.clone(), self.post(route, body.into()), max_unread)
    }
}

impl Generation {
    fn start(client: Client, request: Request, max_unread: usize) -> Self {
        let (sender, lines) = mpsc::unbounded_channel();
        let unread = Arc::new(AtomicUsize::new(0));
        let reader = Reader { client, lines: sender, unread: Arc::clone(&unread), max_unread };
        Self { lines, unread, reader: tokio::spawn(reader.run(request)) }
    }

    /// The next line without its newline, or nothing at the end of the answer. An end is no success yet: that takes a line
    /// that says `done`, which [`crate::Join`] knows. Blank lines are passed over.
    ///
    /// Safe to drop and call again, as in a `select!` or a timeout.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        match self.lines.recv().await {
            Some(Ok(line)) => {
                self.unread.fetch_sub(cost(&line), Ordering::Relaxed);
                Ok(Some(line))
            }
            Some(Err(failure)) => Err(failure),
            None => Ok(None),
        }
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

struct Reader {
    client: Client,
    lines: UnboundedSender<Result<Bytes, Failure>>,
    unread: Arc<AtomicUsize>,
    max_unread: usize,
}

impl Reader {
    async fn run(self, request: Request) {
        if let Err(failure) = self.read(request).await {
            // Nobody listens only if the generation was dropped, and then nobody cares.
            _ = self.lines.send(Err(failure));
        }
    }

    async fn read(&self, request: Request) -> Result<(), Failure> {
        let mut answer = self.client.send(request).await?.bytes_stream();
        let mut rest = Lines::default();
        while let Some(piece) = answer.next().await {
            rest.push(&piece.map_err(|error| self.client.lost(error))?);
            while let Some(line) = rest.next() {
                self.give(line)?;
            }
            if rest.len() > self.max_unread {
                return Err(Failure::TooLarge { limit: self.max_unread });
            }
        }
        self.give(rest.end())
    }

    fn give(&self, line: Bytes) -> Result<(), Failure> {
        if line.is_empty() {
            return Ok(());
        }
        let unread = self.unread.fetch_add(cost(&line), Ordering::Relaxed) + cost(&line);
        if unread > self.max_unread {
            return Err(Failure::TooLarge { limit: self.max_unread });
        }
        _ = self.lines.send(Ok(line));
        Ok(())
    }
}

/// What it takes to keep a line, so that a flood of tiny ones is bounded too.
fn cost(line: &Bytes) -> usize {
    line.len() + size_of::<Result<Bytes, Failure>>()
}

/// Bytes on their way to becoming lines.
#[derive(Default)]
struct Lines {
    bytes: BytesMut,
    /// How much of `bytes` is known to hold no newline, so that a long line is looked through once only.
    searched: usize,
}

impl Lines {
    fn push(&mut self, piece: &[u8]) {
        self.bytes.extend_from_slice(piece);
    }

    fn next(&mut self) -> Option<Bytes> {
        match self.bytes[self.searched..].iter().position(|byte| *byte == b'\n') {
            Some(offset) => {
                let line = self.bytes.split_to(self.searched + offset + 1);
                self.searched = 0;
                Some(trimmed(line))
            }
            None => {
                self.searched = self.bytes.len();
                None
            }
        }
    }

    fn len(&self) -> usize {
        self.bytes.len()
    }

    /// What came after the last newline.
    fn end(self) -> Bytes {
        trimmed(self.bytes)
    }
}

fn trimmed(line: BytesMut) -> Bytes {
    let line = line.freeze();
    let text = line.trim_ascii();
    line.slice_ref(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_whole_however_they_arrive() {
        let text = b"{\"a\":1}\r\n\n  {\"b\":\"\xc3\xa4\"}\nlast";
        for size in 1..text.len() {
            let mut lines = Lines::default();
            let mut out = Vec::new();
            for piece in text.chunks(size) {
                lines.push(piece);
                out.extend(std::iter::from_fn(|| lines.next()));
            }
            out.push(lines.end());
            assert_eq!(
                out,
                [&b"{\"a\":1}"[..], b"", b"{\"b\":\"\xc3\xa4\"}", b"last"],
                "in pieces of {size}"
            );
        }
    }
}
