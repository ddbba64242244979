//! One running request, and its answer line by line.
//!
//! While the [`Generation`] lives, a task of its own reads from Ollama: a reader that stalls would keep the slot on
//! the GPU occupied. Lines that were read wait here, up to a bound.
//!
//! The task must never wait for the consumer of the lines.

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
    /// Sends a body unchanged and reads the answer to its end, however slowly the caller takes the lines.
    ///
    /// Dropping the generation hangs up. The first line arrives with the first token. So a timeout around the first
    /// [`Generation::next`] limits waiting, loading and prompt processing together. `max_unread` limits how many
    /// bytes may wait here unread.
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

    /// The next line without its newline, or `None` at the end of the answer. The end alone is no success: success
    /// also needs a line that says `done`, which [`crate::Join`] checks. Skips blank lines.
    ///
    /// May be dropped and called again, as in a `select!` or a timeout.
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
            // Sending fails only if the generation was dropped. Then nobody needs the failure.
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

/// The memory that one stored line needs. It has a fixed part, so that a flood of tiny lines is bounded too.
fn cost(line: &Bytes) -> usize {
    line.len() + size_of::<Result<Bytes, Failure>>()
}

/// Received bytes that are not split into lines yet.
#[derive(Default)]
struct Lines {
    bytes: BytesMut,
    /// How many bytes are known to contain no newline, so that a long line is searched only once.
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

    /// The bytes after the last newline.
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
