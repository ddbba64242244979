//! How a loop that writes batches lets more gather for the next one, for as long as it is under load.

use std::mem;
use std::time::Duration;

use tokio::time::sleep;

/// A statement over a hundred rows costs hardly more than one over ten. So under load a short wait between two batches saves
/// much, and nobody notices it.
#[derive(Debug)]
pub(crate) struct Gather {
    /// A batch of so many rows is large.
    large: usize,
    wait: Duration,
    last_was_large: bool,
}

impl Gather {
    pub(crate) const fn new(large: usize, wait: Duration) -> Self {
        Self { large, wait, last_was_large: false }
    }

    /// Waits after a large batch, if the batch before it was large as well. One large batch alone is a burst, and what comes
    /// next need not wait for it.
    pub(crate) async fn after(&mut self, rows: usize) {
        let is_large = rows >= self.large;
        if mem::replace(&mut self.last_was_large, is_large) && is_large {
            sleep(self.wait).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_large_batches_in_a_row_make_the_next_one_wait() {
        let mut gather = Gather::new(16, Duration::from_millis(5));
        let mut waited = Vec::new();
        for rows in [16, 2, 100, 16, 15, 20, 20, 20] {
            let begun = Instant::now();
            gather.after(rows).await;
            waited.push(begun.elapsed() >= Duration::from_millis(5));
        }
        assert_eq!(waited, [false, false, false, true, false, false, true, true]);
    }
}
