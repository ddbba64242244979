//! The rules one by one, and the bound on waiting in virtual time: arrivals, loads and runs as a host would have them.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

type Key = usize;

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn drain() -> Drain<Key> {
    Drain::new(0.1, secs(600))
}

/// A key that was loaded at `now`, in one second: its quantum is nine.
fn resident(drain: &mut Drain<Key>, pace: &mut Pace<Key>, key: Key, now: Instant) {
    drain.enter(&key, now);
    drain.loaded(now);
    pace.loaded(&key, secs(1));
}

#[test]
fn a_key_stays_alone_for_as_long_as_it_has_work() {
    let (mut drain, mut pace, start) = (drain(), Pace::default(), Instant::now());
    assert_eq!(drain.next(&[], false, &pace, start), Next::Rest);
    assert_eq!(drain.next(&[1], false, &pace, start), Next::Switch(1));
    resident(&mut drain, &mut pace, 1, start);
    assert_eq!(drain.next(&[1], true, &pace, start + secs(3_600)), Next::Stay(1));
    assert_eq!(drain.next(&[], true, &pace, start + secs(3_600)), Next::Rest);
}

#[test]
fn a_key_that_another_waits_for_has_its_quantum_and_then_drains() {
    let (mut drain, mut pace, start) = (drain(), Pace::default(), Instant::now());
    resident(&mut drain, &mut pace, 1, start);
    assert_eq!(drain.next(&[1, 2], true, &pace, start + secs(8)), Next::Stay(1));
    assert_eq!(drain.next(&[1, 2], true, &pace, start + secs(9)), Next::Drain);
    assert_eq!(drain.next(&[1, 2], false, &pace, start + secs(9)), Next::Switch(2));
}

#[test]
fn a_key_without_work_gives_way_at_once_but_never_over_running_requests() {
    let (mut drain, mut pace, start) = (drain(), Pace::default(), Instant::now());
    resident(&mut drain, &mut pace, 1, start);
    assert_eq!(drain.next(&[2], true, &pace, start + secs(1)), Next::Drain);
    assert_eq!(drain.next(&[2], false, &pace, start + secs(1)), Next::Switch(2));
}

#[test]
fn the_quantum_does_not_run_while_the_model_loads() {
    let (mut drain, mut pace, start) = (drain(), Pace::default(), Instant::now());
    pace.loaded(&1, secs(1));
    drain.enter(&1, start);
    assert_eq!(drain.next(&[1, 2], true, &pace, start + secs(100)), Next::Stay(1));
}

#[test]
fn next_is_the_key_left_longest_ago_and_newcomers_line_up() {
    let (mut drain, pace, start) = (drain(), Pace::default(), Instant::now());
    for (key, at) in [(1, 0), (2, 1), (3, 2)] {
        drain.enter(&key, start + secs(at));
    }
    drain.leave(start + secs(3));
    // 1 was left after one second, 2 after two, 3 after three; 4 is first seen now.
    let now = start + secs(4);
    let mut waiting = vec![4, 3, 2, 1];
    for expected in [1, 2, 3, 4] {
        assert_eq!(drain.next(&waiting, false, &pace, now), Next::Switch(expected));
        waiting.retain(|key| *key != expected);
    }
}

#[test]
fn a_claim_that_brings_nothing_changes_no_turn() {
    let (mut drain, mut pace, start) = (drain(), Pace::default(), Instant::now());
    resident(&mut drain, &mut pace, 1, start);
    assert_eq!(drain.next(&[1, 2], false, &pace, start + secs(9)), Next::Switch(2));
    assert_eq!(drain.next(&[1], false, &pace, start + secs(9)), Next::Stay(1));
}

/// A host in virtual time: what arrives, how long each key loads, how long each job runs.
#[derive(Debug, Clone)]
struct World {
    slots: usize,
    loads: Vec<Duration>,
    /// When each job comes, of which key, and how long it runs; sorted by time.
    jobs: Vec<(Duration, Key, Duration)>,
}

impl World {
    fn longest_load(&self) -> Duration {
        self.loads.iter().copied().max().unwrap_or_default()
    }

    fn longest_run(&self) -> Duration {
        self.jobs.iter().map(|job| job.2).max().unwrap_or_default()
    }

    /// Runs every job and returns the longest that any first job of a key waited to be claimed, from the moment that it
    /// was the first.
    fn longest_wait(&self, drain: &mut Drain<Key>, pace: &mut Pace<Key>) -> Duration {
        let start = Instant::now();
        let mut arrivals: VecDeque<_> = self.jobs.iter().copied().collect();
        // Of each key: its jobs, and since when the first of them is the first.
        let mut queues: Vec<VecDeque<Duration>> = vec![VecDeque::new(); self.loads.len()];
        let mut first_since: Vec<Duration> = vec![Duration::ZERO; self.loads.len()];
        let mut running: Vec<Duration> = Vec::new();
        let mut loading: Option<(Duration, Vec<Duration>)> = None;
        let (mut resident, mut now, mut longest) = (None, Duration::ZERO, Duration::ZERO);
        loop {
            while let Some((_, key, run)) = arrivals.pop_front_if(|job| job.0 <= now) {
                if queues[key].is_empty() {
                    first_since[key] = now;
                }
                queues[key].push_back(run);
            }
            running.retain(|end| *end > now);
            if let Some((_, runs)) = loading.take_if(|(end, _)| *end <= now) {
                drain.loaded(start + now);
                running.extend(runs.iter().map(|run| now + *run));
            }
            // Claims take no time: as many as there are slots for.
            loop {
                let busy = running.len() + loading.as_ref().map_or(0, |(_, runs)| runs.len());
                let waiting: Vec<Key> = (0..queues.len()).filter(|key| !queues[*key].is_empty()).collect();
                let key = match drain.next(&waiting, busy > 0, pace, start + now) {
                    Next::Stay(key) | Next::Switch(key) if busy < self.slots => key,
                    _ => break,
                };
                let run = queues[key].pop_front().unwrap();
                drain.enter(&key, start + now);
                pace.ran(&key, run);
                longest = longest.max(now - first_since[key]);
                first_since[key] = now;
                if resident == Some(key) && loading.is_none() {
                    running.push(now + run);
                    drain.loaded(start + now);
                } else {
                    resident = Some(key);
                    let (_, runs) = loading.get_or_insert_with(|| (now + self.loads[key], Vec::new()));
                    runs.push(run);
                    pace.loaded(&key, self.loads[key]);
                }
            }
            let next = arrivals
                .front()
                .map(|job| job.0)
                .into_iter()
                .chain(running.iter().copied())
                .chain(loading.as_ref().map(|(end, _)| *end))
                .min();
            match next {
                Some(next) => now = next,
                None => break,
            }
        }
        assert!(queues.iter().all(VecDeque::is_empty), "every job was run");
        longest
    }
}

fn millis(range: std::ops::Range<u64>) -> impl Strategy<Value = Duration> {
    range.prop_map(Duration::from_millis)
}

/// Up to six keys; jobs come in bursts and trickles, so that some keys always have work.
fn worlds() -> impl Strategy<Value = World> {
    (1..=4usize, prop::collection::vec(millis(1..5_000), 1..=6)).prop_flat_map(|(slots, loads)| {
        let job = (millis(0..60_000), 0..loads.len(), millis(1..3_000));
        prop::collection::vec(job, 1..300).prop_map(move |mut jobs| {
            jobs.sort();
            World { slots, loads: loads.clone(), jobs }
        })
    })
}

fn bound(keys: usize, quantum: Duration, load: Duration, run: Duration) -> Duration {
    (quantum + load + run) * u32::try_from(keys - 1).unwrap() + load + run
}

proptest! {
    #[test]
    fn nobody_waits_longer_than_the_bound(world in worlds(), load_share in 0.05..0.9f64) {
        let (load, run) = (world.longest_load(), world.longest_run());
        let quantum = load.mul_f64((1.0 - load_share) / load_share);
        let longest = world.longest_wait(&mut Drain::new(load_share, secs(1 << 30)), &mut Pace::default());
        let bound = bound(world.loads.len(), quantum, load, run);
        prop_assert!(longest <= bound + Duration::from_micros(1), "{longest:?} > {bound:?}");
    }

    #[test]
    fn the_longest_wait_that_is_asked_for_is_kept_where_it_can_be(
        mut world in worlds(), load in millis(1..5_000), run in millis(1..3_000), max_wait in millis(1..60_000),
    ) {
        world.loads.iter_mut().for_each(|own| *own = load);
        world.jobs.iter_mut().for_each(|job| job.2 = run);
        let mut pace = Pace::default();
        for key in 0..world.loads.len() {
            pace.loaded(&key, load);
            pace.ran(&key, run);
        }
        let longest = world.longest_wait(&mut Drain::new(0.01, max_wait), &mut pace);
        // Where even turns of a single job are too long, those are all that can be done.
        let least = bound(world.loads.len(), Duration::ZERO, load, run);
        prop_assert!(longest <= max_wait.max(least) + Duration::from_micros(1), "{longest:?} > {max_wait:?}, {least:?}");
    }

    #[test]
    fn loading_takes_no_more_than_its_share_while_two_keys_always_have_work(
        load in millis(100..5_000), run in millis(1..500), load_share in 0.05..0.9f64,
    ) {
        let world = World {
            slots: 1,
            loads: vec![load; 2],
            jobs: (0..2_000).map(|job| (Duration::ZERO, job % 2, run)).collect(),
        };
        let (mut drain, mut pace) = (Drain::new(load_share, secs(1 << 30)), Pace::default());
        let (start, mut now) = (Instant::now(), Duration::ZERO);
        let (mut left, mut resident, mut loads) = ([1_000u32; 2], usize::MAX, 0);
        while left.iter().all(|left| *left > 0) {
            let key = match drain.next(&[0, 1], false, &pace, start + now) {
                Next::Stay(key) | Next::Switch(key) => key,
                other => panic!("{other:?} though both have work"),
            };
            drain.enter(&key, start + now);
            if resident != key {
                (resident, loads) = (key, loads + 1);
                now += load;
                pace.loaded(&key, load);
            }
            drain.loaded(start + now);
            now += world.jobs[0].2;
            left[key] -= 1;
        }
        // The last turn may have been cut short by the end of the work.
        let spent = load * (loads - 1);
        prop_assert!(spent.as_secs_f64() <= load_share * now.as_secs_f64() + 1e-6, "{spent:?} of {now:?}");
    }
}
