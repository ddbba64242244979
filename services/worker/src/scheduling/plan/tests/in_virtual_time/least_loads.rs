//! Small workloads beside the least loads that any order of their jobs needs. An exhaustive search finds that order. It
//! knows every job before it comes. Like the plan, it never idles while a job waits, and no client waits longer than
//! the published bound.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};

use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

use super::*;

const CLIENTS: usize = 3;
const MODELS: usize = 3;
const JOBS: usize = 12;

/// How many workloads whose jobs come over time.
const SHOWN: u32 = 128;

struct Search<'a> {
    workload: &'a Workload,
    bound: Duration,
    /// From here the rest cannot be done.
    hopeless: HashSet<State>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    now: Duration,
    /// The numbers of the jobs that are done, as bits.
    done: u16,
    loaded: Option<usize>,
    loads_left: usize,
    /// When each client was last served.
    served: [Duration; CLIENTS],
}

impl Search<'_> {
    /// The least loads that the bound allows.
    fn least_loads(workload: &Workload, bound: Duration) -> usize {
        let can = |loads: &usize| {
            let mut search = Search { workload, bound, hopeless: HashSet::new() };
            search.can_finish(State {
                now: Duration::ZERO,
                done: 0,
                loaded: None,
                loads_left: *loads,
                served: [Duration::ZERO; CLIENTS],
            })
        };
        (1..=workload.jobs.len()).find(can).expect("the plan itself keeps to the bound")
    }

    fn can_finish(&mut self, state: State) -> bool {
        let jobs = &self.workload.jobs;
        let left = || jobs.iter().enumerate().filter(|(nth, _)| state.done & (1 << nth) == 0);
        let Some(next) = left().map(|(_, job)| job.at).min() else { return true };
        let state = State { now: state.now.max(next), ..state };
        if self.hopeless.contains(&state) {
            return false;
        }
        // Of jobs of the same client and model, the first comes first.
        let mut choices: BTreeMap<(usize, usize), usize> = BTreeMap::new();
        for (nth, job) in left().filter(|(_, job)| job.at <= state.now) {
            choices.entry((job.client, job.model)).or_insert(nth);
        }
        let waits_since = |client: usize| {
            let came = left().filter(|(_, job)| job.client == client).map(|(_, job)| job.at).min();
            came.map(|came| came.max(state.served[client]))
        };
        let is_late = |client| waits_since(client).is_some_and(|since| since + self.bound < state.now);
        let can = !(0..CLIENTS).any(is_late)
            && choices.values().any(|nth| self.after(&state, *nth).is_some_and(|next| self.can_finish(next)));
        if !can {
            self.hopeless.insert(state);
        }
        can
    }

    /// The state after this job. `None` if its load is one too many.
    fn after(&self, state: &State, nth: usize) -> Option<State> {
        let job = &self.workload.jobs[nth];
        let is_loaded = state.loaded == Some(job.model);
        let load = if is_loaded { Duration::ZERO } else { self.workload.loads[job.model] };
        let mut next = State {
            now: state.now + load + job.run,
            done: state.done | 1 << nth,
            loaded: Some(job.model),
            loads_left: state.loads_left.checked_sub(usize::from(!is_loaded))?,
            served: state.served,
        };
        next.served[job.client] = state.now;
        Some(next)
    }
}

/// One slot, room for one model, and jobs that come within so many milliseconds.
fn small(within: u64) -> impl Strategy<Value = Workload> {
    let loads = prop::collection::vec(millis(1_000..5_000), 1..=MODELS);
    loads.prop_flat_map(move |loads| {
        let job = (millis(0..within.max(1)), 0..CLIENTS, 0..loads.len(), millis(1..3_000));
        prop::collection::vec(job, 1..=JOBS).prop_map(move |jobs| {
            let of = |(at, client, model, run)| Job { at, client, model, run, ..Job::default() };
            let mut jobs: Vec<Job> = jobs.into_iter().map(of).collect();
            jobs.sort();
            Workload { slots: 1, room: 1, loads: loads.clone(), failing_load: None, jobs }
        })
    })
}

/// The loads of the plan, and the least.
fn loads(workload: &Workload) -> (usize, usize) {
    let turns = turns();
    let (load, run) = (workload.longest_load(), workload.longest_run());
    let turn = load.mul_f64((1.0 - turns.load_share) / turns.load_share) + load + run;
    let clients = workload.jobs.iter().map(|job| job.client).collect::<BTreeSet<_>>().len();
    let bound = turn * 2 * u32::try_from(clients - 1).unwrap() + load + run * 2;
    (workload.run(&turns, Vec::new()).loads, Search::least_loads(workload, bound))
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn work_that_waits_from_the_start_takes_at_most_a_fifth_more_loads_than_the_least(workload in small(0)) {
        let (ours, least) = loads(&workload);
        prop_assert!(ours <= (least * 6).div_ceil(5), "{ours} loads, {least} would do");
    }
}

/// Of work that is yet to come nobody knows, so that a single workload may take more. The workloads are always the same.
#[test]
fn work_that_comes_over_time_takes_at_most_a_fifth_more_loads_than_the_least() {
    for within in [20_000, 60_000] {
        let all = RefCell::new(Vec::new());
        let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(SHOWN) };
        let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
        let note = |workload: Workload| {
            all.borrow_mut().push(loads(&workload));
            Ok(())
        };
        runner.run(&small(within), note).expect("no workload fails by itself");
        let all = all.into_inner();
        let mut more: BTreeMap<usize, usize> = BTreeMap::new();
        for (ours, least) in &all {
            *more.entry(ours - least).or_default() += 1;
        }
        println!("jobs within {within} ms: loads above the least, and in how many workloads: {more:?}");
        let (ours, least) = all.iter().fold((0, 0), |sum, loads| (sum.0 + loads.0, sum.1 + loads.1));
        assert!(ours * 5 <= least * 6, "{ours} loads, {least} would do");
    }
}
