//! Shares a GPU fairly between those who wait for it: between clients, and between the users of one client. Whoever
//! has had the least GPU time for its weight comes next. Pure.
//!
//! Nobody saves up time while idle: whoever comes back counts as if it had had as much as the least of those who
//! waited meanwhile. And nobody is held to account for ever: what one had above the others is forgotten once they have
//! caught up.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::hash::Hash;

/// With more entries than this, those who do not wait are forgotten: users may come without end, each with a name of its own.
const MANY: usize = 4_096;

/// GPU-seconds for each unit of weight.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Had(f64);

#[derive(Debug, Clone)]
pub(crate) struct Shares<T> {
    /// What those have had who have had more than `least`, unless they were forgotten.
    had: HashMap<T, Had>,
    /// What everybody counts as having had, at the least.
    least: Had,
}

impl Had {
    /// As if it had got this many GPU-seconds more.
    pub(crate) fn and(self, gpu_seconds: f64, weight: f64) -> Self {
        Self(self.0 + gpu_seconds / weight)
    }
}

impl<T> Default for Shares<T> {
    fn default() -> Self {
        Self { had: HashMap::new(), least: Had::default() }
    }
}

impl<T: Clone + Eq + Hash> Shares<T> {
    pub(crate) fn had(&self, one: &T) -> Had {
        self.had.get(one).copied().unwrap_or_default().max(self.least)
    }

    /// Charges GPU-seconds to one of this weight. A negative number gives back what an estimate charged too much.
    pub(crate) fn charge(&mut self, one: &T, gpu_seconds: f64, weight: f64) {
        let had = self.had(one).and(gpu_seconds, weight);
        if had > self.least {
            self.had.insert(one.clone(), had);
        } else {
            self.had.remove(one);
        }
    }

    /// Forgets those who do not wait, if there are many entries.
    pub(crate) fn forget(&mut self, waits: impl Fn(&T) -> bool) {
        if self.had.len() > MANY {
            self.had.retain(|one, _| waits(one));
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.had.len()
    }

    /// Of those who wait now, one has had this, and none has had less.
    pub(crate) fn wait_from(&mut self, least: Had) {
        if least > self.least {
            self.least = least;
            self.had.retain(|_, had| *had > least);
        }
    }
}

impl PartialEq for Had {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Had {}

impl PartialOrd for Had {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Had {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn who_comes_back_has_saved_nothing_up_and_owes_what_it_had_above_the_others() {
        let mut shares = Shares::default();
        shares.charge(&'a', 10.0, 1.0);
        shares.charge(&'b', 12.0, 1.0);
        shares.wait_from(shares.had(&'a'));
        assert_eq!(shares.had(&'c'), shares.had(&'a'), "a newcomer is the least of those who wait");
        assert!(shares.had(&'b') > shares.had(&'a'), "b was ahead of them");
        shares.charge(&'a', 5.0, 1.0);
        shares.wait_from(shares.had(&'b'));
        assert_eq!(shares.had(&'c'), shares.had(&'b'));
        assert_eq!(shares.had.len(), 1, "what everybody has is not kept one by one");
    }

    #[test]
    fn what_an_estimate_charged_too_much_is_given_back() {
        let mut shares = Shares::default();
        shares.charge(&'a', 10.0, 1.0);
        shares.charge(&'a', -4.0, 1.0);
        assert_eq!(shares.had(&'a'), Had(6.0));
    }

    proptest! {
        /// Whatever the costs of their jobs, and whoever comes and goes: two who wait all the time have had the same
        /// for their weights, but for one job of each.
        #[test]
        fn those_who_always_wait_get_the_same_for_their_weights(
            weights in prop::collection::vec(0.25..4.0f64, 2..6),
            jobs in prop::collection::vec((0.01..10.0f64, prop::collection::vec(any::<bool>(), 6)), 1..300),
        ) {
            let mut shares = Shares::default();
            let mut got = vec![0.0; weights.len()];
            let mut dearest: f64 = 0.0;
            for (cost, waits) in jobs {
                // The first two always wait.
                let waiting: Vec<usize> = (0..weights.len()).filter(|one| *one < 2 || waits[*one]).collect();
                let next = waiting.into_iter().min_by_key(|one| (shares.had(one), *one)).unwrap();
                shares.wait_from(shares.had(&next));
                shares.charge(&next, cost, weights[next]);
                got[next] += cost;
                dearest = dearest.max(cost);
            }
            let apart = (got[0] / weights[0] - got[1] / weights[1]).abs();
            prop_assert!(apart <= dearest / weights[0].min(weights[1]) + 1e-6, "{apart} apart, {dearest} a job");
        }
    }
}
