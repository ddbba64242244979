//! The submitter's end of the line of offers: gathers offers into flushes, in the order in which they came.
//!
//! The line has no limit of its own. The memory that each submission holds limits it.

use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;

use super::Offer;

/// A flush has at most this many jobs and this many bytes of bodies. A body that is larger than that is flushed alone.
const MAX_JOBS: usize = 500;
const MAX_BYTES: usize = 8 << 20;

/// The offers that the submitter has not flushed yet.
pub(crate) struct Offers {
    line: UnboundedReceiver<Offer>,
    /// Taken from the line, but too large for the flush before.
    carried: Option<Offer>,
}

impl Offers {
    pub(super) fn new(line: UnboundedReceiver<Offer>) -> Self {
        Self { line, carried: None }
    }

    /// Waits for an offer, and takes all offers that fit with it into one flush. After `last_request` it gives what is left,
    /// and then `None`.
    pub(super) async fn next_flush(&mut self, last_request: &CancellationToken) -> Option<Vec<Offer>> {
        let first = match self.carried.take() {
            Some(offer) => offer,
            None => self.next(last_request).await?,
        };
        let mut bytes = size(&first);
        let mut flush = vec![first];
        while flush.len() < MAX_JOBS
            && let Ok(offer) = self.line.try_recv()
        {
            bytes += size(&offer);
            if bytes > MAX_BYTES {
                self.carried = Some(offer);
                break;
            }
            flush.push(offer);
        }
        Some(flush)
    }

    async fn next(&mut self, last_request: &CancellationToken) -> Option<Offer> {
        tokio::select! {
            offer = self.line.recv() => return offer,
            () = last_request.cancelled() => self.line.close(),
        }
        self.line.recv().await
    }
}

fn size(offer: &Offer) -> usize {
    offer.submission.request.body.len()
}
