//! Reads the lines of a file or a pipe, one after the other.

use std::io;

use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};

/// Twice the api's default limit for a body. A file without line ends must not fill the memory.
const LONGEST: usize = 64 << 20;
const READ_AHEAD: usize = 256 << 10;

pub(super) struct Lines<R> {
    source: BufReader<R>,
    number: u64,
    offset: u64,
    /// The part of the current line that was read so far; `None` once the line is too long.
    begun: Option<Vec<u8>>,
}

/// One line as it stands in the file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RawLine {
    /// Counts from 1.
    pub(super) number: u64,
    /// How many bytes of the file end with it.
    pub(super) end: u64,
    /// `None` if it is too long to be a job.
    pub(super) text: Option<Vec<u8>>,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(super) fn of(source: R) -> Self {
        Self {
            source: BufReader::with_capacity(READ_AHEAD, source),
            number: 0,
            offset: 0,
            begun: Some(Vec::new()),
        }
    }

    /// The next line, or `None` at the end. Cancel safe: the next call goes on with the same line.
    pub(super) async fn next(&mut self) -> io::Result<Option<RawLine>> {
        loop {
            let buffer = self.source.fill_buf().await?;
            if buffer.is_empty() {
                let nothing_begun = self.begun.as_ref().is_some_and(Vec::is_empty);
                return Ok((!nothing_begun).then(|| self.finish()));
            }
            let ended = buffer.iter().position(|byte| *byte == b'\n');
            let part = &buffer[..ended.unwrap_or(buffer.len())];
            self.begun =
                self.begun.take().filter(|begun| begun.len() + part.len() <= LONGEST).map(|mut begun| {
                    begun.extend_from_slice(part);
                    begun
                });
            let used = part.len() + usize::from(ended.is_some());
            self.source.consume(used);
            self.offset += used as u64;
            if ended.is_some() {
                return Ok(Some(self.finish()));
            }
        }
    }

    fn finish(&mut self) -> RawLine {
        self.number += 1;
        let text = self.begun.replace(Vec::new());
        RawLine { number: self.number, end: self.offset, text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_last_line_needs_no_line_end_and_empty_ones_count() {
        let mut lines = Lines::of(&b"one\n\ntwo"[..]);
        let mut seen = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            seen.push((line.number, line.end, String::from_utf8(line.text.unwrap()).unwrap()));
        }
        assert_eq!(seen, [(1, 4, "one".to_owned()), (2, 5, String::new()), (3, 8, "two".to_owned())]);
    }

    #[tokio::test]
    async fn a_line_without_end_is_not_kept() {
        let long = vec![b'x'; LONGEST + 1];
        let mut lines = Lines::of([&long[..], b"\nnext"].concat().leak() as &[u8]);
        assert_eq!(lines.next().await.unwrap().unwrap().text, None);
        let next = lines.next().await.unwrap().unwrap();
        assert_eq!((next.number, next.text), (2, Some(b"next".to_vec())));
        assert_eq!(lines.next().await.unwrap(), None);
    }
}
