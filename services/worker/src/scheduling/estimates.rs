//! How long loads and runs take, as this worker has measured. A restart loses the estimates; turns are then less
//! exact for a while. Pure.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

/// With more keys than this, drop all estimates and measure again. Clients can make up keys without end, and memory
/// must not grow with them. A cache that drops one key at a time would cost more: each decision reads every key in line.
const MAX_KEYS: usize = 4_096;

#[derive(Debug)]
pub(crate) struct Estimates<K>(HashMap<K, Measured>);

#[derive(Debug, Clone, Copy, Default)]
struct Measured {
    load: Duration,
    longest_run: Duration,
    usual_run: Option<Duration>,
}

impl<K> Default for Estimates<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash + Clone> Estimates<K> {
    /// Notes a load. A preload of a resident model is answered at once, and tells nothing about a real load. So the
    /// estimate falls by half at most.
    pub(crate) fn loaded(&mut self, key: &K, took: Duration) {
        let measured = self.entry(key);
        measured.load = took.max(measured.load / 2);
    }

    /// Notes a run.
    pub(crate) fn ran(&mut self, key: &K, took: Duration) {
        let measured = self.entry(key);
        // The longest run fades slowly, so that one unusual job does not shorten everybody's turns for ever.
        measured.longest_run = took.max(measured.longest_run.mul_f64(0.98));
        measured.usual_run = Some(match measured.usual_run {
            None => took,
            Some(usual) => usual.mul_f64(0.875) + took.mul_f64(0.125),
        });
    }

    /// How long a load of this key takes: S in the bound of `rotation.rs`. Zero for a key that was never loaded.
    pub(crate) fn load(&self, key: &K) -> Duration {
        self.0.get(key).map_or(Duration::ZERO, |measured| measured.load)
    }

    /// The longest run of this key: L in the bound of `rotation.rs`.
    pub(crate) fn longest_run(&self, key: &K) -> Duration {
        self.0.get(key).map_or(Duration::ZERO, |measured| measured.longest_run)
    }

    /// How long a run of this key usually takes. `None` before the first run.
    pub(crate) fn usual_run(&self, key: &K) -> Option<Duration> {
        self.0.get(key).and_then(|measured| measured.usual_run)
    }

    fn entry(&mut self, key: &K) -> &mut Measured {
        if self.0.len() >= MAX_KEYS && !self.0.contains_key(key) {
            self.0.clear();
        }
        self.0.entry(key.clone()).or_default()
    }
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
        estimates.ran(&'a', secs(60));
        for _ in 0..1_000 {
            estimates.ran(&'a', secs(1));
        }
        assert_eq!(estimates.longest_run(&'a'), secs(1));
        assert!(estimates.usual_run(&'a').is_some_and(|usual| usual < secs(2)));
        assert_eq!(estimates.usual_run(&'b'), None);
    }

    #[test]
    fn keys_without_end_do_not_fill_the_memory() {
        let mut estimates = Estimates::default();
        (0..100_000).for_each(|key| estimates.ran(&key, secs(1)));
        assert!(estimates.0.len() <= MAX_KEYS);
    }
}
