//! One reader of a live answer, at its own place. Must never slow the attempt that writes.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use foreman_live::{Frame, FrameError, Frames};
use tokio::sync::watch;

use super::Answer;

/// A reader takes about this many bytes at a time.
const SLICE: usize = 64 << 10;

/// Follows an answer.
pub(crate) struct Reader {
    answer: Arc<Answer>,
    changes: watch::Receiver<()>,
    /// The next piece, and how many of its bytes the reader has already.
    next: usize,
    skip: usize,
    has_head: bool,
    is_over: bool,
}

impl Reader {
    pub(super) fn new(answer: Arc<Answer>, from: u64) -> Self {
        let changes = answer.changes.subscribe();
        // A reader that comes back has seen these bytes, so the pieces are there.
        let skip = usize::try_from(from).unwrap_or(usize::MAX);
        Self { answer, changes, next: 0, skip, has_head: false, is_over: false }
    }

    /// The next frames, or `None` after the end.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, FrameError>> {
        if self.is_over {
            return None;
        }
        loop {
            // Mark the changes as seen before looking, so that none between the two is lost.
            self.changes.borrow_and_update();
            let mut frames = BytesMut::new();
            if let Err(error) = self.take(&mut frames) {
                self.is_over = true;
                return Some(Err(error));
            }
            if !frames.is_empty() {
                return Some(Ok(frames.freeze()));
            }
            // An error would mean that the answer is gone, and this reader holds it.
            self.changes.changed().await.ok()?;
        }
    }

    fn take(&mut self, out: &mut BytesMut) -> Result<(), FrameError> {
        let answer = Arc::clone(&self.answer);
        let state = answer.state();
        let mut frames = Frames::default();
        if state.is_given_out {
            if let Some(head) = state.head.as_ref().filter(|_| !self.has_head) {
                frames.write(&Frame::Head(head.clone()), out)?;
                self.has_head = true;
            }
            let ready = state.ready();
            while let Some(piece) = state.pieces[..ready].get(self.next).filter(|_| out.len() < SLICE) {
                let skipped = self.skip.min(piece.len());
                if skipped < piece.len() {
                    frames.write(&Frame::Piece(piece.slice(skipped..)), out)?;
                }
                self.skip -= skipped;
                self.next += 1;
            }
            if self.next < ready {
                return Ok(());
            }
        }
        if let Some(end) = &state.end {
            frames.write(&Frame::End(end.clone()), out)?;
            self.is_over = true;
        }
        Ok(())
    }
}
