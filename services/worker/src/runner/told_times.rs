//! When jobs were expected to begin, by the first forecast that told it. The forecasts are judged by what came, and learn
//! from it: a run ahead knows nothing of jobs that come later, so jobs wait longer than it says. Its times are stretched
//! by as much as waits have been longer of late.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foreman_store::{Forecast, JobId};
use metrics::histogram;
use tokio::time::Instant;

use super::metrics::ETA_ERROR;

/// With more jobs than this, forget those that the last forecast does not have: they were cancelled, or run elsewhere.
const MAX_JOBS: usize = 4_096;

/// Judge no forecast of a shorter wait. The forecasts themselves come a second apart.
const MIN_WAIT: Duration = Duration::from_secs(1);

/// How much of what a wait has taught goes into the stretch. Jobs of a batch wait alike, so some dozens of them must not
/// decide it alone.
const LEARNED: f64 = 1.0 / 32.0;

/// Stretch no time by more than this, and let no single wait teach more, because a host may have been away meanwhile.
const MAX_STRETCH: f64 = 4.0;

#[derive(Debug, Clone, Default)]
pub(crate) struct ToldTimes(Arc<Mutex<Memory>>);

#[derive(Debug, Default)]
struct Memory {
    jobs: HashMap<JobId, Told>,
    stretch: Stretch,
}

#[derive(Debug, Clone, Copy)]
struct Told {
    at: Instant,
    /// By the run ahead.
    foreseen: Duration,
    /// The same, stretched.
    wait: Duration,
}

/// By how much waits have been longer than the run ahead said: the natural logarithm of their typical ratio.
#[derive(Debug, Clone, Copy, Default)]
struct Stretch(f64);

impl ToldTimes {
    /// Stretches a forecast that was made from what was known at that time, and takes note of what it tells.
    pub(super) fn tell(&self, forecast: &mut Forecast, at: Instant) {
        let mut memory = self.memory();
        let Memory { jobs, stretch } = &mut *memory;
        if jobs.len() > MAX_JOBS {
            let foreseen: HashSet<JobId> = forecast.jobs.iter().map(|foreseen| foreseen.job).collect();
            jobs.retain(|job, _| foreseen.contains(job));
        }
        for job in &mut forecast.jobs {
            if let Some(foreseen) = job.begins_in_ms.map(Duration::from_millis) {
                let wait = stretch.of(foreseen);
                job.begins_in_ms = u64::try_from(wait.as_millis()).ok();
                jobs.entry(job.job).or_insert(Told { at, foreseen, wait });
            }
        }
    }

    /// This job begins now.
    pub(super) fn began(&self, job: JobId) {
        let mut memory = self.memory();
        let Some(told) = memory.jobs.remove(&job) else { return };
        let waited = told.at.elapsed();
        memory.stretch.learn(told.foreseen, waited);
        if let Some(error) = told.error(waited) {
            histogram!(ETA_ERROR.name).record(error);
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stretch {
    /// No wait is shortened. Where other hosts help, waits are shorter than the run ahead of one host says, and whoever
    /// reads the forecasts of all hosts reckons with that.
    fn of(self, wait: Duration) -> Duration {
        wait.mul_f64(self.0.max(0.0).exp())
    }

    /// A job has waited for so long that was to wait for so long by the run ahead. What was to wait for a moment only
    /// teaches nothing.
    fn learn(&mut self, foreseen: Duration, waited: Duration) {
        if foreseen >= MIN_WAIT {
            let ratio = waited.as_secs_f64() / foreseen.as_secs_f64();
            self.0 += (ratio.clamp(MAX_STRETCH.recip(), MAX_STRETCH).ln() - self.0) * LEARNED;
        }
    }
}

impl Told {
    /// The error as a part of the wait that it was. `None` for a short wait.
    fn error(self, waited: Duration) -> Option<f64> {
        (waited >= MIN_WAIT).then(|| self.wait.abs_diff(waited).as_secs_f64() / waited.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use foreman_store::Foreseen;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn foreseen(begins_in_ms: Option<u64>) -> Foreseen {
        Foreseen { job: JobId::generate(), group: 0, begins_in_ms, loads: 0 }
    }

    fn forecast(jobs: Vec<Foreseen>) -> Forecast {
        Forecast { jobs, ..Forecast::default() }
    }

    #[test]
    fn a_forecast_is_judged_by_its_part_of_the_wait() {
        let told = Told { at: Instant::now(), foreseen: 3 * SECOND, wait: 6 * SECOND };
        assert_eq!(told.error(4 * SECOND), Some(0.5));
        assert_eq!(told.error(12 * SECOND), Some(0.5));
        assert_eq!(told.error(Duration::from_millis(900)), None);
    }

    #[test]
    fn times_are_stretched_as_waits_were_and_no_longer_than_that() {
        let mut stretch = Stretch::default();
        let mut after = |jobs: usize, foreseen: Duration, waited: Duration| {
            (0..jobs).for_each(|_| stretch.learn(foreseen, waited));
            (stretch.of(10 * SECOND).as_secs_f64() * 10.0).round() / 10.0
        };
        assert_eq!(after(0, SECOND, SECOND).to_string(), "10");
        assert_eq!(after(500, 10 * SECOND, 15 * SECOND).to_string(), "15");
        assert_eq!(
            after(500, Duration::from_millis(100), 15 * SECOND).to_string(),
            "15",
            "for a moment only"
        );
        assert_eq!(after(1, 10 * SECOND, 3_600 * SECOND).to_string(), "15.5", "one alone changes little");
        assert_eq!(after(500, 10 * SECOND, 3_600 * SECOND).to_string(), "40", "the most");
        assert_eq!(after(500, 10 * SECOND, 10 * SECOND).to_string(), "10");
        assert_eq!(after(500, 10 * SECOND, SECOND).to_string(), "10", "other hosts help");
    }

    #[test]
    fn a_job_is_told_the_stretched_time_and_teaches_by_what_was_foreseen() {
        let (times, now) = (ToldTimes::default(), Instant::now());
        (0..500).for_each(|_| times.memory().stretch.learn(10 * SECOND, 15 * SECOND));
        let mut told = forecast(vec![foreseen(Some(10_000)), foreseen(None)]);
        times.tell(&mut told, now);
        let begins = told.jobs.iter().map(|job| job.begins_in_ms.map(|ms| (ms as f64 / 1e3).round()));
        assert_eq!(begins.collect::<Vec<_>>(), [Some(15.0), None]);
        let kept = times.memory().jobs[&told.jobs[0].job];
        assert_eq!((kept.foreseen, kept.wait.as_secs_f64().round()), (10 * SECOND, 15.0));
    }

    #[test]
    fn the_first_word_counts_and_memory_does_not_grow() {
        let (times, now) = (ToldTimes::default(), Instant::now());
        let first = foreseen(Some(5_000));
        times.tell(&mut forecast(vec![first, foreseen(None)]), now);
        times.tell(&mut forecast(vec![Foreseen { begins_in_ms: Some(9_000), ..first }]), now);
        assert_eq!(times.memory().jobs.get(&first.job).map(|told| told.wait), Some(5 * SECOND));
        assert_eq!(times.memory().jobs.len(), 1, "what has no time was not told");
        for _ in 0..10 {
            times.tell(&mut forecast((0..1_000).map(|_| foreseen(Some(1))).collect()), now);
        }
        assert!(times.memory().jobs.len() <= MAX_JOBS + 1_000);
    }
}
