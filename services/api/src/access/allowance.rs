//! What a client may ask for so often and no more, where the asking itself is the cost: so many at once, and after that
//! one each interval. Each api counts for itself.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Callers remembered; beyond these, those that have their whole allowance again are forgotten.
const REMEMBERED: usize = 10_000;

/// An allowance for each caller of some kind.
pub(crate) struct Allowance<K> {
    at_once: u32,
    one_each: Duration,
    /// When each caller has its whole allowance again. Each use moves that by one interval.
    whole_at: Mutex<HashMap<K, Instant>>,
}

impl<K: Eq + Hash> Allowance<K> {
    pub(crate) fn new(at_once: u32, one_each: Duration) -> Self {
        Self { at_once, one_each, whole_at: Mutex::default() }
    }

    /// Uses the allowance once, or says how long it takes until that is possible.
    pub(crate) fn take(&self, caller: K) -> Result<(), Duration> {
        let now = Instant::now();
        let mut whole_at = self.whole_at.lock().unwrap_or_else(PoisonError::into_inner);
        if whole_at.len() >= REMEMBERED && !whole_at.contains_key(&caller) {
            whole_at.retain(|_, whole_at| *whole_at > now);
        }
        let whole_at = whole_at.entry(caller).or_insert(now);
        let after = (*whole_at).max(now) + self.one_each;
        let wait = after.saturating_duration_since(now + self.one_each * self.at_once);
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
