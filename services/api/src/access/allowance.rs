//! Limits how often a caller may do something that costs us something each time. The caller may do it some number of times
//! at once, and after that once per interval. Each api counts for itself.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// At most this many callers are remembered. When one more comes, every caller that has its whole allowance again is forgotten.
const REMEMBERED: usize = 10_000;

/// One allowance per caller.
pub(crate) struct Allowance<K> {
    at_once: u32,
    interval: Duration,
    /// The moment at which a caller has its whole allowance again. Each use moves this moment one interval later.
    whole_at: Mutex<HashMap<K, Instant>>,
}

impl<K: Eq + Hash> Allowance<K> {
    pub(crate) fn new(at_once: u32, interval: Duration) -> Self {
        Self { at_once, interval, whole_at: Mutex::default() }
    }

    /// Uses the allowance once. The error is the time until the caller may try again.
    pub(crate) fn take(&self, caller: K) -> Result<(), Duration> {
        let now = Instant::now();
        let mut whole_at = self.whole_at.lock().unwrap_or_else(PoisonError::into_inner);
        if whole_at.len() >= REMEMBERED && !whole_at.contains_key(&caller) {
            whole_at.retain(|_, whole_at| *whole_at > now);
        }
        let whole_at = whole_at.entry(caller).or_insert(now);
        let after = (*whole_at).max(now) + self.interval;
        let wait = after.saturating_duration_since(now + self.interval * self.at_once);
        if !wait.is_zero() {
            return Err(wait);
        }
        *whole_at = after;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_caller_has_so_many_at_once_and_then_one_each_interval() {
        let allowance = Allowance::new(3, Duration::from_secs(10));
        let taken = |caller: &'static str, times: usize| {
            (0..times).filter(|_| allowance.take(caller).is_ok()).count()
        };
        assert_eq!((taken("one", 5), taken("other", 5)), (3, 3));
        advance(Duration::from_secs(9)).await;
        assert_eq!(allowance.take("one"), Err(Duration::from_secs(1)));
        advance(Duration::from_secs(1)).await;
        assert_eq!(taken("one", 5), 1);
        advance(Duration::from_secs(3_600)).await;
        assert_eq!(taken("one", 5), 3, "an allowance that was not used does not grow");
    }
}
