//! When jobs were expected to begin, by the first forecast that told it, so that the forecasts can be judged by what
//! came.

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

#[derive(Debug, Clone, Default)]
pub(crate) struct ToldTimes(Arc<Mutex<HashMap<JobId, Told>>>);

#[derive(Debug, Clone, Copy)]
struct Told {
    at: Instant,
    wait: Duration,
}

impl ToldTimes {
    /// This forecast was made from what was known at that time.
    pub(super) fn told(&self, forecast: &Forecast, at: Instant) {
        let mut jobs = self.jobs();
        if jobs.len() > MAX_JOBS {
            let foreseen: HashSet<JobId> = forecast.jobs.iter().map(|foreseen| foreseen.job).collect();
            jobs.retain(|job, _| foreseen.contains(job));
        }
        for foreseen in &forecast.jobs {
            if let Some(wait) = foreseen.begins_in_ms.map(Duration::from_millis) {
                jobs.entry(foreseen.job).or_insert(Told { at, wait });
            }
        }
    }

    /// This job begins now.
    pub(super) fn began(&self, job: JobId) {
        let Some(told) = self.jobs().remove(&job) else { return };
        if let Some(error) = told.error(told.at.elapsed()) {
            histogram!(ETA_ERROR.name).record(error);
        }
    }

    fn jobs(&self) -> MutexGuard<'_, HashMap<JobId, Told>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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

    #[test]
    fn a_forecast_is_judged_by_its_part_of_the_wait() {
        let told = Told { at: Instant::now(), wait: Duration::from_secs(6) };
        assert_eq!(told.error(Duration::from_secs(4)), Some(0.5));
        assert_eq!(told.error(Duration::from_secs(12)), Some(0.5));
        assert_eq!(told.error(Duration::from_millis(900)), None);
    }

    #[test]
    fn the_first_word_counts_and_memory_does_not_grow() {
        let (times, now) = (ToldTimes::default(), Instant::now());
        let foreseen = |begins_in_ms| Foreseen { job: JobId::generate(), group: 0, begins_in_ms, loads: 0 };
        let first = foreseen(Some(5_000));
        let forecast = |jobs| Forecast { jobs, ..Forecast::default() };
        times.told(&forecast(vec![first, foreseen(None)]), now);
        times.told(&forecast(vec![Foreseen { begins_in_ms: Some(9_000), ..first }]), now);
        assert_eq!(times.jobs().get(&first.job).map(|told| told.wait), Some(Duration::from_secs(5)));
        assert_eq!(times.jobs().len(), 1, "what has no time was not told");
        for _ in 0..10 {
            times.told(&forecast((0..1_000).map(|_| foreseen(Some(1))).collect()), now);
        }
        assert!(times.jobs().len() <= MAX_JOBS + 1_000);
    }
}
