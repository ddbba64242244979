//! How long the GPU stood idle while work waited. Pure but for the counter.

use std::time::Duration;

use tokio::time::Instant;

#[derive(Debug, Default)]
pub(crate) struct IdleMeter {
    since: Option<Instant>,
    /// What is measured and not yet reported: the counter counts whole seconds.
    rest: Duration,
}

impl IdleMeter {
    /// Notes whether it is idle from now on while work waits. Returns the whole seconds that are to be counted.
    pub(crate) fn note(&mut self, idle: bool, now: Instant) -> u64 {
        if let Some(since) = self.since.take() {
            self.rest += now.saturating_duration_since(since);
        }
        self.since = idle.then_some(now);
        let whole = self.rest.as_secs();
        self.rest -= Duration::from_secs(whole);
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_adds_up_over_many_short_waits() {
        let (mut meter, start) = (IdleMeter::default(), Instant::now());
        let mut counted = 0;
        for step in 0..40 {
            // Idle for every other tenth of a second.
            counted += meter.note(step % 2 == 0, start + Duration::from_millis(100 * step));
        }
        assert_eq!(counted, 2);
    }
}
