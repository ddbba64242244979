//! How a loop that writes batches lets more gather for the next one, for as long as it is under load.

use std::mem;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

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

/// Receives at least one row. While all rows may wait, receives more for at most `wait`, up to `at_most` rows. Returns false once
/// the last sender is gone and nothing is left.
pub(crate) async fn receive<T>(
    from: &mut mpsc::Receiver<T>,
    batch: &mut Vec<T>,
    at_most: usize,
    may_wait: impl Fn(&T) -> bool,
    wait: Duration,
) -> bool {
    from.recv_many(batch, at_most).await;
    let until = Instant::now() + wait;
    while (1..at_most).contains(&batch.len()) && batch.iter().all(&may_wait) {
        match timeout_at(until, from.recv_many(batch, at_most - batch.len())).await {
            Ok(received) if received > 0 => {}
            _ => break,
        }
    }
    !batch.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn rows_that_may_wait_are_received_with_the_first_one_that_may_not() {
        let (to, mut from) = mpsc::channel(10);
        let wait = Duration::from_millis(50);
        let mut receive = async || {
            let (began, mut batch) = (Instant::now(), Vec::new());
            let more = receive(&mut from, &mut batch, 3, |row| *row < 10, wait).await;
            (more, batch, began.elapsed())
        };
        let send = async |rows: &[i32]| {
            for row in rows {
                to.send(*row).await.unwrap();
            }
        };
        send(&[1]).await;
        assert_eq!(receive().await, (true, vec![1], wait));
        send(&[1, 2, 3, 4]).await;
        assert_eq!(receive().await, (true, vec![1, 2, 3], Duration::ZERO), "it is full");
        send(&[10]).await;
        assert_eq!(receive().await, (true, vec![4, 10], Duration::ZERO));
        send(&[5]).await;
        let later = async {
            sleep(wait / 2).await;
            send(&[11]).await;
        };
        let (received, ()) = tokio::join!(receive(), later);
        assert_eq!(received, (true, vec![5, 11], wait / 2));
        send(&[6]).await;
        drop(to);
        assert_eq!(receive().await, (true, vec![6], Duration::ZERO));
        assert_eq!(receive().await, (false, vec![], Duration::ZERO));
    }

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
