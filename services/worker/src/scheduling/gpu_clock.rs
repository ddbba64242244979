//! Measures how much of the GPU each job gets. While several jobs run at once, each gets an equal part of the time. So
//! the parts of all jobs add up to the time in which the GPU was busy. Pure.

use tokio::time::Instant;

#[derive(Debug, Clone)]
pub(crate) struct GpuClock {
    running: u32,
    /// How many GPU-seconds a job would have by now that has run from the beginning.
    seconds: f64,
    /// The time up to which `seconds` counts.
    at: Instant,
}

/// The clock's reading when a job began, and when that was.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Reading {
    seconds: f64,
    pub(crate) at: Instant,
}

impl GpuClock {
    pub(crate) fn new(now: Instant) -> Self {
        Self { running: 0, seconds: 0.0, at: now }
    }

    /// A job begins to run.
    pub(crate) fn begins(&mut self, now: Instant) -> Reading {
        self.go_on(now);
        self.running += 1;
        Reading { seconds: self.seconds, at: now }
    }

    /// A job that began at this reading ends. Returns the GPU-seconds that it had.
    pub(crate) fn ends(&mut self, began: Reading, now: Instant) -> f64 {
        self.go_on(now);
        self.running = self.running.saturating_sub(1);
        self.seconds - began.seconds
    }

    fn go_on(&mut self, now: Instant) {
        if self.running > 0 {
            let passed = now.saturating_duration_since(self.at).as_secs_f64();
            self.seconds += passed / f64::from(self.running);
        }
        self.at = now;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn jobs_that_run_together_share_the_time_and_a_job_alone_has_all_of_it() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut clock = GpuClock::new(start);
        let one = clock.begins(at(10));
        let two = clock.begins(at(14));
        assert!((clock.ends(one, at(20)) - 7.0).abs() < 1e-9, "4 s alone, 6 s with the other");
        assert!((clock.ends(two, at(21)) - 4.0).abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn all_parts_together_are_the_busy_time(jobs in prop::collection::vec((0..1_000u64, 1..500u64), 1..40)) {
            let start = Instant::now();
            let mut changes: Vec<(u64, bool, usize)> = Vec::new();
            for (job, (begin, long)) in jobs.iter().enumerate() {
                changes.extend([(*begin, true, job), (begin + long, false, job)]);
            }
            changes.sort_unstable();
            let (mut clock, mut began, mut seconds) = (GpuClock::new(start), vec![None; jobs.len()], 0.0);
            let (mut running, mut busy, mut last) = (0, 0, 0);
            for (at, begins, job) in changes {
                busy += if running > 0 { at - last } else { 0 };
                last = at;
                let now = start + Duration::from_millis(at);
                if begins {
                    running += 1;
                    began[job] = Some(clock.begins(now));
                } else {
                    running -= 1;
                    seconds += clock.ends(began[job].unwrap(), now);
                }
            }
            let busy = Duration::from_millis(busy).as_secs_f64();
            prop_assert!((seconds - busy).abs() < 1e-6, "{seconds} of {busy}");
        }
    }
}
