//! How long it is worth asking again.

use std::time::Duration;

use tokio::time::Instant;

/// How long an api that is away, or takes nothing from anybody, is asked again while nothing gets through.
const PATIENCE: Duration = Duration::from_secs(300);
const SHORTEST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

pub(super) struct Patience {
    /// Whether the api was there at all.
    pub(super) was_reached: bool,
    /// Since when nothing gets through.
    since: Option<Instant>,
    wait: Duration,
}

impl Patience {
    pub(super) fn new() -> Self {
        Self { was_reached: false, since: None, wait: SHORTEST_WAIT }
    }

    /// Something got through.
    pub(super) fn renew(&mut self) {
        *self = Self { was_reached: true, ..Self::new() };
    }

    /// `None` when it is over. A client's own limit can be waited for without an end: its jobs are being run.
    pub(super) fn wait(&mut self, is_own_limit: bool, at_least: Duration) -> Option<Duration> {
        let now = Instant::now();
        let since = *self.since.get_or_insert(now);
        let wait = self.wait.max(at_least);
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
        if is_own_limit {
            self.since = None;
        } else if now + wait > since + PATIENCE {
            return None;
        }
        Some(wait)
    }
}
