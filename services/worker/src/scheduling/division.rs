//! How the GPU's time was divided in the last hour: what was due to each client by its weight, and what it got. For
//! people who look at the queue; no decision asks it. Pure.
//!
//! Whenever a job or a load has had some of the GPU's time, that time was due to all who wanted the GPU, by their
//! weights: to those who waited at the last scan, and to the one who got it. So what was due to all together is what
//! all together got. A client's share due is what was due to it, as a part of that.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

/// The hour goes on in steps of this length.
const STEP: Duration = Duration::from_secs(5 * 60);
const STEPS: usize = 12;

/// Keep this many clients per step. Others are told of nobody, because memory must not grow with them.
const MAX_CLIENTS: usize = 4_096;

#[derive(Debug, Clone)]
pub(crate) struct Division<C> {
    /// The newest comes last.
    steps: VecDeque<Step<C>>,
    /// Those who waited at the last scan, with their weights.
    wanting: HashMap<C, f64>,
    /// The sum of their weights.
    weights: f64,
    /// What was due to each unit of weight since the last scan.
    due_per_weight: f64,
}

#[derive(Debug, Clone)]
struct Step<C> {
    began: Instant,
    portions: HashMap<C, Portion>,
}

/// Seconds of the GPU.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Portion {
    pub(crate) due: f64,
    pub(crate) got: f64,
}

impl<C> Default for Division<C> {
    fn default() -> Self {
        Self { steps: VecDeque::new(), wanting: HashMap::new(), weights: 0.0, due_per_weight: 0.0 }
    }
}

impl<C: Clone + Eq + Hash> Division<C> {
    /// These wait from now on, each with its weight, and no others.
    pub(crate) fn scanned(&mut self, wanting: impl Iterator<Item = (C, f64)>, now: Instant) {
        self.share_out();
        self.wanting.clear();
        self.wanting.extend(wanting.take(MAX_CLIENTS));
        self.weights = self.wanting.values().sum();
        while self.steps.front().is_some_and(|step| now >= step.began + STEP * STEPS as u32) {
            self.steps.pop_front();
        }
        if self.steps.back().is_none_or(|step| now >= step.began + STEP) {
            self.steps.push_back(Step { began: now, portions: HashMap::new() });
        }
    }

    /// One of this weight has had so many seconds of the GPU.
    pub(crate) fn got(&mut self, one: &C, weight: f64, seconds: f64) {
        if seconds <= 0.0 {
            return;
        }
        let is_among_them = self.wanting.contains_key(one);
        let weights = if is_among_them { self.weights } else { self.weights + weight };
        let due_per_weight = seconds / weights;
        self.due_per_weight += due_per_weight;
        let own = if is_among_them { 0.0 } else { due_per_weight * weight };
        self.add(one, Portion { due: own, got: seconds });
    }

    /// What was due to each in the last hour, and what it got.
    pub(crate) fn portions(&self) -> HashMap<&C, Portion> {
        let mut portions: HashMap<&C, Portion> = HashMap::new();
        let of_steps =
            self.steps.iter().flat_map(|step| &step.portions).map(|(one, portion)| (one, *portion));
        let since = |weight: f64| Portion { due: weight * self.due_per_weight, got: 0.0 };
        for (one, portion) in of_steps.chain(self.wanting.iter().map(|(one, weight)| (one, since(*weight)))) {
            portions.entry(one).or_default().add(portion);
        }
        portions.retain(|_, portion| portion.due > 0.0 || portion.got > 0.0);
        portions
    }

    /// Notes what was due since the last scan.
    fn share_out(&mut self) {
        let due_per_weight = std::mem::take(&mut self.due_per_weight);
        if due_per_weight > 0.0 {
            for (one, weight) in std::mem::take(&mut self.wanting) {
                self.add(&one, Portion { due: weight * due_per_weight, got: 0.0 });
            }
        }
    }

    fn add(&mut self, one: &C, portion: Portion) {
        // Nothing is claimed before the first scan, so there is a step.
        let Some(step) = self.steps.back_mut() else { return };
        if let Some(before) = step.portions.get_mut(one) {
            before.add(portion);
        } else if step.portions.len() < MAX_CLIENTS {
            step.portions.insert(one.clone(), portion);
        }
    }
}

impl Portion {
    fn add(&mut self, other: Self) {
        self.due += other.due;
        self.got += other.got;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn time_is_due_by_weight_to_those_who_wait_and_to_the_one_who_got_it() {
        let (mut division, now) = (Division::default(), Instant::now());
        division.scanned([('a', 1.0), ('b', 3.0)].into_iter(), now);
        division.got(&'a', 1.0, 8.0);
        division.scanned([('b', 3.0)].into_iter(), now);
        division.got(&'c', 1.0, 4.0);
        let portions = division.portions();
        assert_eq!(portions[&'a'], Portion { due: 2.0, got: 8.0 });
        assert_eq!(portions[&'b'], Portion { due: 9.0, got: 0.0 });
        assert_eq!(portions[&'c'], Portion { due: 1.0, got: 4.0 });
    }

    #[test]
    fn what_is_an_hour_old_no_longer_counts() {
        let (mut division, start) = (Division::default(), Instant::now());
        let one = || [('a', 1.0)].into_iter();
        division.scanned(one(), start);
        division.got(&'a', 1.0, 5.0);
        division.scanned(one(), start + secs(3_599));
        division.got(&'a', 1.0, 2.0);
        assert_eq!(division.portions()[&'a'], Portion { due: 7.0, got: 7.0 });
        division.scanned(one(), start + secs(3_600));
        assert_eq!(division.portions()[&'a'], Portion { due: 2.0, got: 2.0 });
    }

    proptest! {
        #[test]
        fn what_was_due_to_all_is_what_all_got(
            jobs in prop::collection::vec((prop::collection::vec(any::<bool>(), 4), 0..4usize, 0.01..9.0f64), 1..100),
        ) {
            let weights = [0.5, 1.0, 2.0, 7.0];
            let (mut division, now, mut all) = (Division::default(), Instant::now(), 0.0);
            for (waits, one, seconds) in jobs {
                division.scanned((0..4).filter(|one| waits[*one]).map(|one| (one, weights[one])), now);
                division.got(&one, weights[one], seconds);
                all += seconds;
            }
            let portions = division.portions();
            let sum = |of: fn(&Portion) -> f64| portions.values().map(of).sum::<f64>();
            prop_assert!((sum(|portion| portion.due) - all).abs() < 1e-6);
            prop_assert!((sum(|portion| portion.got) - all).abs() < 1e-6);
        }
    }
}
