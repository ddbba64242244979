//! How long loads and runs take, as the holders of this host have measured. Pure.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

/// With more keys than this, drop all estimates and measure again. Clients can make up keys without end, and memory
/// must not grow with them. A cache that drops one key at a time would cost more: each decision reads every key in line.
const MAX_KEYS: usize = 4_096;

/// The GPU-seconds of a job before any was measured.
const FIRST_GUESS: f64 = 1.0;

#[derive(Debug, Clone)]
pub(crate) struct Estimates<K> {
    keys: HashMap<K, Measured>,
    /// What a job of any key usually costs, for keys that have not run yet.
    usual_gpu_seconds: Option<f64>,
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Measured {
    pub(crate) load: Duration,
    pub(crate) longest_run: Duration,
    /// In seconds.
    pub(crate) usual_run: Option<f64>,
    pub(crate) usual_gpu_seconds: Option<f64>,
}

impl<K> Default for Estimates<K> {
    fn default() -> Self {
        Self { keys: HashMap::new(), usual_gpu_seconds: None }
    }
}

impl<K: Eq + Hash + Clone> Estimates<K> {
    /// Notes a load. A preload of a resident model is answered at once, and tells nothing about a real load. So the
    /// estimate falls by half at most.
    pub(crate) fn loaded(&mut self, key: &K, took: Duration) {
        let measured = self.entry(key);
        measured.load = took.max(measured.load / 2);
    }

    /// Notes a run, and the GPU-seconds that it had.
    pub(crate) fn ran(&mut self, key: &K, took: Duration, gpu_seconds: f64) {
        self.usual_gpu_seconds = average(self.usual_gpu_seconds, gpu_seconds);
        let measured = self.entry(key);
        measured.usual_gpu_seconds = average(measured.usual_gpu_seconds, gpu_seconds);
        // The longest run fades slowly, so that one unusual job does not shorten everybody's turns for ever.
        measured.longest_run = took.max(measured.longest_run.mul_f64(0.98));
        measured.usual_run = average(measured.usual_run, took.as_secs_f64());
    }

    /// All that was measured of this key.
    pub(crate) fn measured(&self, key: &K) -> Measured {
        self.keys.get(key).copied().unwrap_or_default()
    }

    /// How long a load of this key takes: S in the bound of `rotation.rs`. Zero for a key that was never loaded.
    pub(crate) fn load(&self, key: &K) -> Duration {
        self.keys.get(key).map_or(Duration::ZERO, |measured| measured.load)
    }

    /// The longest run of this key: L in the bound of `rotation.rs`.
    pub(crate) fn longest_run(&self, key: &K) -> Duration {
        self.keys.get(key).map_or(Duration::ZERO, |measured| measured.longest_run)
    }

    /// How long a run of this key usually takes. `None` before the first run.
    pub(crate) fn usual_run(&self, key: &K) -> Option<Duration> {
        self.keys.get(key).and_then(|measured| measured.usual_run).map(Duration::from_secs_f64)
    }

    /// How long a load of any key usually takes: the median of all that were loaded.
    pub(crate) fn median_load(&self) -> Option<Duration> {
        let loads = self.keys.values().map(|measured| measured.load);
        median(loads.filter(|load| !load.is_zero()).collect())
    }

    /// How long a run of any key usually takes: the median of all that have run.
    pub(crate) fn median_run(&self) -> Option<Duration> {
        let runs = self.keys.values().filter_map(|measured| measured.usual_run);
        median(runs.map(Duration::from_secs_f64).collect())
    }

    /// How many GPU-seconds a job of this key usually has.
    pub(crate) fn gpu_seconds(&self, key: &K) -> f64 {
        let own = self.keys.get(key).and_then(|measured| measured.usual_gpu_seconds);
        own.or(self.usual_gpu_seconds).unwrap_or(FIRST_GUESS)
    }

    /// Everything that was measured.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&K, &Measured)> {
        self.keys.iter()
    }

    /// Takes what an earlier holder has measured, unless this one has measured the key itself.
    pub(crate) fn remember(&mut self, key: K, measured: Measured) {
        if self.keys.len() < MAX_KEYS {
            self.keys.entry(key).or_insert(measured);
        }
    }

    fn entry(&mut self, key: &K) -> &mut Measured {
        if self.keys.len() >= MAX_KEYS && !self.keys.contains_key(key) {
            self.keys.clear();
        }
        self.keys.entry(key.clone()).or_default()
    }
}

fn median(mut durations: Vec<Duration>) -> Option<Duration> {
    let middle = durations.len() / 2;
    (!durations.is_empty()).then(|| *durations.select_nth_unstable(middle).1)
}

/// An average that follows what is measured, in seconds.
fn average(before: Option<f64>, measured: f64) -> Option<f64> {
    Some(before.map_or(measured, |before| before * 0.875 + measured * 0.125))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_preload_that_finds_its_model_resident_hardly_changes_the_estimate() {
        let mut estimates = Estimates::default();
        estimates.loaded(&'a', secs(8));
        estimates.loaded(&'a', Duration::from_millis(3));
        assert_eq!(estimates.load(&'a'), secs(4));
        estimates.loaded(&'a', secs(9));
        assert_eq!(estimates.load(&'a'), secs(9));
        assert_eq!(estimates.load(&'b'), Duration::ZERO);
    }

    #[test]
    fn the_longest_run_fades_and_the_usual_one_follows() {
        let mut estimates = Estimates::default();
        estimates.ran(&'a', secs(60), 30.0);
        for _ in 0..1_000 {
            estimates.ran(&'a', secs(1), 1.0);
        }
        assert_eq!(estimates.longest_run(&'a'), secs(1));
        assert!(estimates.usual_run(&'a').is_some_and(|usual| usual < secs(2)));
        assert_eq!(estimates.usual_run(&'b'), None);
        assert!(estimates.gpu_seconds(&'a') < 1.1);
    }

    #[test]
    fn a_key_that_has_not_run_costs_what_jobs_usually_cost() {
        let mut estimates = Estimates::default();
        assert_eq!(estimates.gpu_seconds(&'b').total_cmp(&FIRST_GUESS), std::cmp::Ordering::Equal);
        estimates.ran(&'a', secs(8), 4.0);
        assert_eq!(estimates.gpu_seconds(&'b').total_cmp(&4.0), std::cmp::Ordering::Equal);
    }

    #[test]
    fn keys_without_end_do_not_fill_the_memory() {
        let mut estimates = Estimates::default();
        (0..100_000).for_each(|key| estimates.ran(&key, secs(1), 1.0));
        assert!(estimates.keys.len() <= MAX_KEYS);
    }
}
