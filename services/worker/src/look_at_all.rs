//! Says when a loop that remembers where it left off looks at everything again. The memory is for speed only: what a look
//! misses because of it, the next look at everything finds.

use std::time::{Duration, Instant};

/// Looks at everything take at most one part in this many of the time, unless they must not be that rare.
const SHARE: u32 = 20;

#[derive(Debug)]
pub(crate) struct LookAtAll {
    every: Duration,
    at_latest: Duration,
    next: Instant,
}

impl LookAtAll {
    /// The first look is due at `now`. While looks are quick, one is due each time that `every` has passed.
    pub(crate) fn new(now: Instant, every: Duration) -> Self {
        Self { every, at_latest: Duration::MAX, next: now }
    }

    /// Makes a look due after this pause, however slow looks are. For loops where somebody waits for what only these looks
    /// find.
    pub(crate) fn at_latest(self, pause: Duration) -> Self {
        Self { at_latest: pause, ..self }
    }

    pub(crate) fn is_due(&self, now: Instant) -> bool {
        now >= self.next
    }

    /// Makes the next look one at everything.
    pub(crate) fn make_due(&mut self, now: Instant) {
        self.next = self.next.min(now);
    }

    /// How long until one is due.
    pub(crate) fn due_in(&self, now: Instant) -> Duration {
        self.next.saturating_duration_since(now)
    }

    /// Takes note of any look. It was a look at everything if one was due when it began.
    pub(crate) fn looked(&mut self, began: Instant, ended: Instant) {
        if self.is_due(began) {
            let pause = ((ended - began) * SHARE).min(self.at_latest);
            self.next = ended + pause.max(self.every);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_looked_at_now_and_then_and_more_seldom_where_that_is_slow() {
        let (began, second) = (Instant::now(), Duration::from_secs(1));
        let mut look = LookAtAll::new(began, 5 * second);
        assert!(look.is_due(began));
        look.looked(began, began);
        assert!(!look.is_due(began + 4 * second));
        // A look that leaves something out does not count, however long it takes.
        look.looked(began + 4 * second, began + 5 * second);
        assert!(look.is_due(began + 5 * second));
        look.looked(began + 5 * second, began + 6 * second);
        assert!(!look.is_due(began + 25 * second));
        assert!(look.is_due(began + 26 * second));

        let mut look = LookAtAll::new(began, Duration::ZERO).at_latest(5 * second);
        look.looked(began, began + second);
        assert_eq!(look.due_in(began + second), 5 * second);
    }
}
