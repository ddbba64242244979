//! The frames of an answer: its head, its pieces, and how it ended. `tokio_util`'s length-delimited codec finds where a frame
//! ends; the first byte of a frame says which kind it is.

use bytes::{BufMut as _, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use tokio_util::codec::{Decoder, Encoder, LengthDelimitedCodec};

/// The header of the response that says which attempt the frames belong to.
pub const ATTEMPT_HEADER: &str = "foreman-attempt";

/// The largest frame. A piece is a line or an event of Ollama's answer, and an unstreamed answer is one piece; a worker splits
/// larger ones.
const MAX_FRAME: usize = 16 << 20;

const HEAD: u8 = b'H';
const PIECE: u8 = b'P';
const END: u8 = b'E';

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Comes once, before every piece.
    Head(Head),
    /// Bytes of the answer as Ollama sent them.
    Piece(Bytes),
    /// Comes last. An answer that stops without it was lost on the way.
    End(End),
}

/// The head of Ollama's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    pub status: u16,
    pub content_type: Option<String>,
    /// Given if the size was known before the first byte.
    pub content_length: Option<u64>,
}

/// How an answer ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// The answer is complete.
    Done,
    Failed {
        code: String,
        error: String,
        /// Whether the pieces contain Ollama's own error already.
        said: bool,
    },
    /// The job goes back to the queue. No piece was given out.
    Again,
    Cancelled,
    Expired,
}

/// The code of the failure to follow an answer that has become too long. The job itself goes on.
pub const TOO_LONG: &str = "too_long_to_follow";

#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("a frame of an answer is too large or broken")]
    Broken(#[from] std::io::Error),
    #[error("a frame of an answer is of an unknown kind: api and worker are of different versions")]
    UnknownKind,
    #[error("a frame of an answer cannot be read: api and worker are of different versions")]
    Json(#[from] serde_json::Error),
}

/// Writes and reads frames.
#[derive(Debug)]
pub struct Frames(LengthDelimitedCodec);

impl Default for Frames {
    fn default() -> Self {
        Self(LengthDelimitedCodec::builder().max_frame_length(MAX_FRAME + 1).new_codec())
    }
}

impl Frames {
    /// Writes a frame. A piece that is too large for one frame becomes several.
    pub fn write(&mut self, frame: &Frame, out: &mut BytesMut) -> Result<(), FrameError> {
        match frame {
            Frame::Head(head) => self.one(HEAD, &serde_json::to_vec(head)?, out),
            Frame::Piece(bytes) => bytes.chunks(MAX_FRAME).try_for_each(|part| self.one(PIECE, part, out)),
            Frame::End(end) => self.one(END, &serde_json::to_vec(end)?, out),
        }
    }

    fn one(&mut self, kind: u8, body: &[u8], out: &mut BytesMut) -> Result<(), FrameError> {
        let mut frame = BytesMut::with_capacity(body.len() + 1);
        frame.put_u8(kind);
        frame.put_slice(body);
        Ok(self.0.encode(frame.freeze(), out)?)
    }
}

impl Decoder for Frames {
    type Item = Frame;
    type Error = FrameError;

    fn decode(&mut self, bytes: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        let Some(frame) = self.0.decode(bytes)? else { return Ok(None) };
        let mut frame = frame.freeze();
        if frame.is_empty() {
            return Err(FrameError::UnknownKind);
        }
        let kind = frame.split_to(1)[0];
        Ok(Some(match kind {
            HEAD => Frame::Head(serde_json::from_slice(&frame)?),
            PIECE => Frame::Piece(frame),
            END => Frame::End(serde_json::from_slice(&frame)?),
            _ => return Err(FrameError::UnknownKind),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in_however_they_are_cut() {
        let head =
            Head { status: 200, content_type: Some("text/event-stream".to_owned()), content_length: None };
        let failed =
            End::Failed { code: "runner_stopped".to_owned(), error: "it stopped".to_owned(), said: true };
        let frames = [
            Frame::Head(head),
            Frame::Piece(Bytes::from_static(b"data: {}\n\n")),
            Frame::Piece(Bytes::from_static(b"\0\xff")),
            Frame::End(failed),
            Frame::End(End::Done),
        ];
        let mut written = BytesMut::new();
        frames.iter().for_each(|frame| Frames::default().write(frame, &mut written).unwrap());
        for size in [1, 2, 7, written.len()] {
            let (mut reader, mut buffer, mut read) = (Frames::default(), BytesMut::new(), Vec::new());
            for part in written.chunks(size) {
                buffer.extend_from_slice(part);
                read.extend(std::iter::from_fn(|| reader.decode(&mut buffer).unwrap()));
            }
            assert_eq!(read, frames, "in parts of {size}");
        }
    }

    #[test]
    fn a_large_piece_becomes_several_frames() {
        let piece = Bytes::from(vec![7; MAX_FRAME + 5]);
        let mut written = BytesMut::new();
        Frames::default().write(&Frame::Piece(piece.clone()), &mut written).unwrap();
        let mut reader = Frames::default();
        let parts: Vec<Frame> = std::iter::from_fn(|| reader.decode(&mut written).unwrap()).collect();
        let sizes: Vec<usize> = parts
            .iter()
            .map(|part| match part {
                Frame::Piece(bytes) => bytes.len(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(sizes, [MAX_FRAME, 5]);
    }

    #[test]
    fn bytes_that_are_no_frame_are_refused() {
        for bytes in [&b"\xff\xff\xff\xff"[..], b"\0\0\0\0", b"\0\0\0\x01Z", b"\0\0\0\x02H{", b"\0\0\0\x01E"]
        {
            let mut bytes = BytesMut::from(bytes);
            assert!(Frames::default().decode(&mut bytes).is_err(), "{bytes:?}");
        }
    }
}
