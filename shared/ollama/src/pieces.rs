//! The pieces of an answer: lines, events, or all of it at once. Each keeps its bytes.

use bytes::{Bytes, BytesMut};

/// In which pieces an answer comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pieces {
    /// One JSON object per line.
    Lines,
    /// Server-sent events.
    Events,
    /// The whole answer at once.
    Whole,
}

impl Pieces {
    /// Ollama announces a stream by its content type.
    pub fn of(content_type: &str) -> Self {
        match content_type.split(';').next().unwrap_or_default().trim() {
            "application/x-ndjson" => Self::Lines,
            "text/event-stream" => Self::Events,
            _ => Self::Whole,
        }
    }
}

/// Received bytes that are not cut into pieces yet.
#[derive(Debug)]
pub struct Cutter {
    bytes: BytesMut,
    /// What ends a piece. `None` if there is only one.
    mark: Option<&'static [u8]>,
    /// How many bytes are known to contain no mark, so that a long piece is searched only once.
    searched: usize,
}

impl Cutter {
    pub fn new(pieces: Pieces) -> Self {
        let mark: Option<&[u8]> = match pieces {
            Pieces::Lines => Some(b"\n"),
            Pieces::Events => Some(b"\n\n"),
            Pieces::Whole => None,
        };
        Self { bytes: BytesMut::new(), mark, searched: 0 }
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next piece that has come whole, with the bytes that end it.
    pub fn next_piece(&mut self) -> Option<Bytes> {
        let mark = self.mark?;
        let found = self.bytes[self.searched..].windows(mark.len()).position(|bytes| bytes == mark);
        match found {
            Some(offset) => {
                let piece = self.bytes.split_to(self.searched + offset + mark.len());
                self.searched = 0;
                Some(piece.freeze())
            }
            None => {
                // The last bytes may be the first ones of a mark.
                self.searched = (self.bytes.len() + 1).saturating_sub(mark.len());
                None
            }
        }
    }

    /// How many bytes wait for the end of their piece.
    pub fn waiting(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes after the last mark.
    pub fn end(self) -> Bytes {
        self.bytes.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(pieces: Pieces, text: &[u8], size: usize) -> Vec<Bytes> {
        let mut cutter = Cutter::new(pieces);
        let mut out = Vec::new();
        for part in text.chunks(size) {
            cutter.push(part);
            out.extend(std::iter::from_fn(|| cutter.next_piece()));
        }
        out.push(cutter.end());
        out
    }

    #[test]
    fn pieces_come_out_whole_however_they_arrive() {
        let lines = b"{\"a\":1}\r\n\n  {\"b\":\"\xc3\xa4\"}\nlast";
        let events = b"event: a\ndata: 1\n\n\ndata: 2\n\n: x";
        for size in 1..lines.len() {
            let expected = [&b"{\"a\":1}\r\n"[..], b"\n", b"  {\"b\":\"\xc3\xa4\"}\n", b"last"];
            assert_eq!(cut(Pieces::Lines, lines, size), expected, "in parts of {size}");
            let expected = [&b"event: a\ndata: 1\n\n"[..], b"\ndata: 2\n\n", b": x"];
            assert_eq!(cut(Pieces::Events, events, size), expected, "in parts of {size}");
            assert_eq!(cut(Pieces::Whole, lines, size), [&lines[..]], "in parts of {size}");
        }
    }

    #[test]
    fn the_content_type_says_in_which_pieces_an_answer_comes() {
        for (content_type, pieces) in [
            ("application/x-ndjson", Pieces::Lines),
            ("text/event-stream", Pieces::Events),
            ("text/event-stream; charset=utf-8", Pieces::Events),
            ("application/json; charset=utf-8", Pieces::Whole),
            ("", Pieces::Whole),
        ] {
            assert_eq!(Pieces::of(content_type), pieces, "{content_type:?}");
        }
    }
}
