//! How relay and dispatcher end in a worker that runs jobs. The relay ends after the runner and the dispatcher after the relay,
//! each when nothing is left of the work that it carries on. So a worker that runs a job to its end within the grace also
//! sends the last webhook of that job.

use std::convert::Infallible;
use std::time::Duration;

use foreman_runtime::Shutdown;
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Enough for the events of the jobs that ended last, even on a slow Postgres. A longer backlog must not hold up the end: it is
/// left to the other workers, or to the next start.
const AT_MOST: Duration = Duration::from_secs(3);

/// The end of one of these roles.
#[derive(Debug)]
pub(crate) struct LastRounds {
    begun: CancellationToken,
    stop: CancellationToken,
    hard: CancellationToken,
    /// Wakes the loop for the first of the last rounds.
    wake: Notify,
}

impl LastRounds {
    /// The last rounds of a role begin when `before` is cancelled. Without it the role carries on no work of this process, so
    /// it has no last rounds, and ends with the soft token.
    pub(crate) fn new(shutdown: &Shutdown, before: Option<CancellationToken>) -> Self {
        let stop = if before.is_some() { CancellationToken::new() } else { shutdown.soft().clone() };
        let begun = before.unwrap_or_default();
        Self { begun, stop, hard: shutdown.hard().clone(), wake: Notify::new() }
    }

    /// For [`background::repeat`](foreman_runtime::background::repeat).
    pub(crate) fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Whether a look that begins now sees everything that the role must carry on.
    pub(crate) fn have_begun(&self) -> bool {
        self.begun.is_cancelled()
    }

    /// Ends the role, because such a look has found nothing.
    pub(crate) fn end(&self) {
        self.stop.cancel();
    }

    /// Returns once, when the last rounds begin.
    pub(crate) async fn begin(&self) {
        self.wake.notified().await;
    }

    /// Begins the last rounds at once, and ends them in time. Must be polled beside the loop.
    pub(crate) async fn watch(&self) -> Infallible {
        self.begun.cancelled().await;
        self.wake.notify_one();
        _ = self.hard.run_until_cancelled(sleep(AT_MOST)).await;
        self.end();
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn they_begin_after_the_one_before_and_end_when_nothing_is_left_or_in_time() {
        let (shutdown, before) = (Shutdown::new(), CancellationToken::new());
        let last = LastRounds::new(&shutdown, Some(before.clone()));
        shutdown.stop();
        let long = Duration::from_secs(60);
        assert!(timeout(long, last.watch()).await.is_err());
        assert!(!last.have_begun() && !last.stop().is_cancelled(), "what comes before it goes on");

        before.cancel();
        let start = Instant::now();
        tokio::select! {
            never = last.watch() => match never {},
            () = last.begin() => assert!(last.have_begun() && !last.stop().is_cancelled()),
        }
        tokio::select! {
            never = last.watch() => match never {},
            () = last.stop().cancelled() => assert_eq!(start.elapsed(), AT_MOST),
        }
    }

    #[tokio::test]
    async fn without_the_one_before_there_are_none() {
        let shutdown = Shutdown::new();
        let last = LastRounds::new(&shutdown, None);
        shutdown.stop();
        assert!(last.stop().is_cancelled() && !last.have_begun());
    }
}
