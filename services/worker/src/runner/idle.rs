//! Measures how long the GPU was idle while work waited. Pure.

use std::time::Duration;

use tokio::time::Instant;

#[derive(Debug, Default)]
pub(crate) struct IdleMeter {
    since: Option<Instant>,
    /// Measured but not reported yet, because the counter takes whole seconds.
    rest: Duration,
}

impl IdleMeter {
    /// Notes whether the GPU is idle from now on although work waits. Returns the whole seconds to add to the counter.
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
            // Idle in every second tenth of a second: 2 of 4 seconds.
            counted += meter.note(step % 2 == 0, start + Duration::from_millis(100 * step));
        }
        assert_eq!(counted, 2);
    }
}
