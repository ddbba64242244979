//! How many loads the jobs of a host would have needed one after the other, in the order in which they could run: as a
//! host with room for one model makes them without Foreman. For the metrics; no decision asks it. Pure.
//!
//! Jobs are claimed in another order, so this keeps the claimed jobs of late, in the order in which they could run. Each
//! job that comes between two others adds the loads around it, and takes away the one that was between them. So the
//! count is right at any moment for the jobs claimed so far, and it never falls.

use std::collections::BTreeMap;

/// Keep this many jobs. A job that could run before all of these no longer counts: so the count may be too low for a
/// longer queue, and is never too high.
const MAX_JOBS: usize = 16_384;

#[derive(Debug)]
pub(crate) struct FirstCome<P, K> {
    /// What each job needs loaded, by its place in the order.
    jobs: BTreeMap<P, K>,
    /// The last job in the order that is no longer kept.
    forgotten: Option<(P, K)>,
}

impl<P, K> Default for FirstCome<P, K> {
    fn default() -> Self {
        Self { jobs: BTreeMap::new(), forgotten: None }
    }
}

impl<P: Ord, K: PartialEq> FirstCome<P, K> {
    /// A job was claimed. Returns how many loads more it makes. A job that is claimed again makes none.
    pub(crate) fn claimed(&mut self, place: P, needs: K) -> u64 {
        let is_too_old = self.forgotten.as_ref().is_some_and(|(last, _)| place <= *last);
        if is_too_old || self.jobs.contains_key(&place) {
            return 0;
        }
        let before = self.jobs.range(..&place).next_back().map(|(_, needs)| needs);
        let before = before.or(self.forgotten.as_ref().map(|(_, needs)| needs));
        let after = self.jobs.range(&place..).next().map(|(_, needs)| needs);
        let is_load = |before: Option<&K>, job: Option<&K>| u64::from(job.is_some() && before != job);
        // If there is a load between the two, at least one of them differs from the job.
        let more = is_load(before, Some(&needs)) + is_load(Some(&needs), after) - is_load(before, after);
        self.jobs.insert(place, needs);
        if self.jobs.len() > MAX_JOBS {
            self.forgotten = self.jobs.pop_first();
        }
        more
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn loads(jobs: &[(usize, u8)]) -> u64 {
        let mut first_come = FirstCome::default();
        jobs.iter().map(|(place, needs)| first_come.claimed(*place, *needs)).sum()
    }

    #[test]
    fn jobs_that_alternate_need_a_load_each_in_whatever_order_they_are_claimed() {
        let [even, odd] = [0, 1].map(|first| (first..10).step_by(2).map(|place| (place, (place % 2) as u8)));
        assert_eq!(loads(&even.chain(odd).collect::<Vec<_>>()), 10);
    }

    #[test]
    fn a_job_counts_once_and_not_at_all_if_it_is_too_old() {
        assert_eq!(loads(&[(5, 1), (5, 1), (6, 1)]), 1);
        let mut first_come = FirstCome::default();
        let all: u64 = (1..=MAX_JOBS + 2).map(|place| first_come.claimed(place, 1)).sum();
        assert_eq!((all, first_come.jobs.len()), (1, MAX_JOBS));
        assert_eq!(first_come.claimed(0, 2), 0);
        assert_eq!(first_come.claimed(MAX_JOBS + 3, 2), 1);
    }

    proptest! {
        #[test]
        fn the_count_is_that_of_the_jobs_in_their_order(
            needs in prop::collection::vec(0..3u8, 1..40),
            shuffled in Just((0..40usize).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let claimed: Vec<(usize, u8)> =
                shuffled.into_iter().filter_map(|place| Some((place, *needs.get(place)?))).collect();
            let in_order = 1 + needs.windows(2).filter(|pair| pair[0] != pair[1]).count() as u64;
            prop_assert_eq!(loads(&claimed), in_order);
        }
    }
}
