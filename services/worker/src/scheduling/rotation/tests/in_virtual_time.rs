//! The bounds on waiting and loading, tested in virtual time on a host with random arrivals, loads and runs.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

/// A job that comes at the time `at`, and runs for the time `run`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Job {
    at: Duration,
    client: Client,
    key: Key,
    run: Duration,
}

/// A host in virtual time.
#[derive(Debug, Clone)]
struct World {
    slots: usize,
    /// How long each key loads.
    loads: Vec<Duration>,
    clients: usize,
    /// Sorted by time.
    jobs: Vec<Job>,
}

/// The longest waits in a world. A client or key waits from the time when it has waiting jobs until one of them is
/// claimed. For a client, a new wait begins when a turn of its own ends.
#[derive(Debug, Clone, Copy, Default)]
struct Longest {
    of_clients: Duration,
    of_keys: Duration,
}

/// For each client, or each key: since when it waits, if it does.
#[derive(Debug, Clone)]
struct Waits(Vec<Option<Duration>>);

impl Waits {
    fn begin(&mut self, one: usize, now: Duration) {
        self.0[one].get_or_insert(now);
    }

    /// Ends a wait, and begins the next one if `go_on`. Returns how long the ended wait was.
    fn end(&mut self, one: usize, go_on: bool, now: Duration) -> Duration {
        let since = std::mem::replace(&mut self.0[one], go_on.then_some(now));
        since.map_or(Duration::ZERO, |since| now - since)
    }
}

impl World {
    fn longest_load(&self) -> Duration {
        self.loads.iter().copied().max().unwrap_or_default()
    }

    fn longest_run(&self) -> Duration {
        self.jobs.iter().map(|job| job.run).max().unwrap_or_default()
    }

    /// Runs every job. Within a key clients are served in turn, but a switch serves its own client first.
    fn run(&self, rotation: &mut Rotation<Client, Key>, estimates: &mut Estimates<Key>) -> Longest {
        let start = Instant::now();
        let mut arrivals: VecDeque<Job> = self.jobs.iter().copied().collect();
        let mut ready: Vec<Job> = Vec::new();
        let mut client_waits = Waits(vec![None; self.clients]);
        let mut key_waits = Waits(vec![None; self.loads.len()]);
        let mut served = vec![0; self.clients];
        let mut running: Vec<Duration> = Vec::new();
        let mut loading: Option<(Duration, Vec<Duration>)> = None;
        let (mut resident, mut now, mut claims) = (None, Duration::ZERO, 0);
        let mut longest = Longest::default();
        loop {
            while let Some(job) = arrivals.pop_front_if(|job| job.at <= now) {
                client_waits.begin(job.client, now);
                key_waits.begin(job.key, now);
                ready.push(job);
            }
            running.retain(|end| *end > now);
            if let Some((_, runs)) = loading.take_if(|(end, _)| *end <= now) {
                rotation.loaded(start + now);
                running.extend(runs.iter().map(|run| now + *run));
            }
            // Claims take no time. They go on until every slot has a job.
            loop {
                let busy = running.len() + loading.as_ref().map_or(0, |(_, runs)| runs.len());
                let mut waiting: Vec<(Client, Key)> = ready.iter().map(|job| (job.client, job.key)).collect();
                waiting.sort_unstable();
                waiting.dedup();
                let whose = rotation.turn.as_ref().map(|turn| turn.client);
                let next = rotation.next(&waiting, busy > 0, estimates, start + now);
                let (first, key) = match next {
                    Next::Stay(key) if busy < self.slots => (None, key),
                    Next::Switch { client, key } if busy < self.slots => (Some(client), key),
                    _ => (None, Key::MAX),
                };
                let job = ready
                    .iter()
                    .enumerate()
                    .filter(|(_, job)| job.key == key)
                    .min_by_key(|(_, job)| (Some(job.client) != first, served[job.client], job.at));
                let job = job.map(|(index, _)| index).map(|index| ready.remove(index));
                if let Some(job) = job {
                    rotation.enter(job.client, &key, start + now);
                }
                // The turn has ended. Its client may have more jobs, and then a new wait begins here.
                if let Some(last) =
                    whose.filter(|last| rotation.turn.as_ref().is_none_or(|turn| turn.client != *last))
                {
                    let waits = client_waits.0[last].is_some();
                    client_waits.end(last, waits, now);
                }
                let Some(job) = job else { break };
                estimates.ran(&key, job.run);
                claims += 1;
                served[job.client] = claims;
                let has_more = |same: fn(&Job, &Job) -> bool| ready.iter().any(|other| same(other, &job));
                let more = has_more(|one, other| one.client == other.client);
                longest.of_clients = longest.of_clients.max(client_waits.end(job.client, more, now));
                let more = has_more(|one, other| one.key == other.key);
                longest.of_keys = longest.of_keys.max(key_waits.end(key, more, now));
                if resident == Some(key) && loading.is_none() {
                    running.push(now + job.run);
                    rotation.loaded(start + now);
                } else {
                    assert!(resident == Some(key) || busy == 0, "a switch with requests in flight");
                    resident = Some(key);
                    let (_, runs) = loading.get_or_insert_with(|| (now + self.loads[key], Vec::new()));
                    runs.push(job.run);
                    estimates.loaded(&key, self.loads[key]);
                }
            }
            let next = arrivals
                .front()
                .map(|job| job.at)
                .into_iter()
                .chain(running.iter().copied())
                .chain(loading.as_ref().map(|(end, _)| *end))
                .min();
            match next {
                Some(next) => now = next,
                None => break,
            }
        }
        assert!(ready.is_empty(), "every job was run");
        longest
    }
}

fn millis(range: std::ops::Range<u64>) -> impl Strategy<Value = Duration> {
    range.prop_map(Duration::from_millis)
}

/// Worlds with up to six keys, whose jobs come in bursts and trickles. `client` gives the client of a job, from its
/// key and from a random number below `clients`.
fn worlds(clients: usize, client: fn(Key, usize) -> Client) -> impl Strategy<Value = World> {
    (1..=4usize, prop::collection::vec(millis(1..5_000), 1..=6)).prop_flat_map(move |(slots, loads)| {
        let job = (millis(0..60_000), 0..loads.len(), millis(1..3_000), 0..clients);
        prop::collection::vec(job, 1..300).prop_map(move |jobs| {
            let mut jobs: Vec<Job> = jobs
                .into_iter()
                .map(|(at, key, run, number)| Job { at, client: client(key, number), key, run })
                .collect();
            jobs.sort();
            World { slots, loads: loads.clone(), clients: clients.max(loads.len()), jobs }
        })
    })
}

/// Worlds in which each key has a client of its own, or one client has all keys.
fn worlds_of_keys() -> impl Strategy<Value = World> {
    prop_oneof![worlds(1, |key, _| key), worlds(1, |_, _| 0)]
}

/// Worlds in which four clients share the keys at random.
fn worlds_of_clients() -> impl Strategy<Value = World> {
    worlds(4, |_, number| number)
}

fn bound(count: usize, quantum: Duration, load: Duration, run: Duration) -> Duration {
    (quantum + load + run) * u32::try_from(count - 1).unwrap() + load + run
}

const ROUNDING: Duration = Duration::from_micros(1);

proptest! {
    #[test]
    fn no_key_waits_longer_than_the_bound(world in worlds_of_keys(), load_share in 0.05..0.9f64) {
        let (load, run) = (world.longest_load(), world.longest_run());
        let quantum = load.mul_f64((1.0 - load_share) / load_share);
        let longest = world.run(&mut Rotation::new(load_share, secs(1 << 30)), &mut Estimates::default()).of_keys;
        let bound = bound(world.loads.len(), quantum, load, run);
        prop_assert!(longest <= bound + ROUNDING, "{longest:?} > {bound:?}");
    }

    #[test]
    fn no_client_waits_longer_than_the_bound_whatever_keys_there_are(
        world in worlds_of_clients(), load_share in 0.05..0.9f64,
    ) {
        let (load, run) = (world.longest_load(), world.longest_run());
        let quantum = load.mul_f64((1.0 - load_share) / load_share);
        let longest = world.run(&mut Rotation::new(load_share, secs(1 << 30)), &mut Estimates::default()).of_clients;
        let bound = bound(4, quantum, load, run);
        prop_assert!(longest <= bound + ROUNDING, "{longest:?} > {bound:?}");
    }

    #[test]
    fn the_longest_wait_that_is_asked_for_is_kept_where_it_can_be(
        mut world in worlds_of_keys(), load in millis(1..5_000), run in millis(1..3_000),
        max_wait in millis(1..60_000),
    ) {
        world.loads.iter_mut().for_each(|own| *own = load);
        world.jobs.iter_mut().for_each(|job| job.run = run);
        let longest = world.run(&mut Rotation::new(0.01, max_wait), &mut measured(&world, load, run)).of_keys;
        // If even turns of a single job exceed the asked wait, no quantum can keep it.
        let least = bound(world.loads.len(), Duration::ZERO, load, run);
        prop_assert!(longest <= max_wait.max(least) + ROUNDING, "{longest:?} > {max_wait:?}, {least:?}");
    }

    #[test]
    fn the_longest_wait_that_is_asked_for_is_kept_for_clients_too(
        mut world in worlds_of_clients(), load in millis(1..5_000), run in millis(1..3_000),
        max_wait in millis(1..60_000),
    ) {
        world.loads.iter_mut().for_each(|own| *own = load);
        world.jobs.iter_mut().for_each(|job| job.run = run);
        let longest = world.run(&mut Rotation::new(0.01, max_wait), &mut measured(&world, load, run)).of_clients;
        let least = bound(4, Duration::ZERO, load, run);
        prop_assert!(longest <= max_wait.max(least) + ROUNDING, "{longest:?} > {max_wait:?}, {least:?}");
    }

    #[test]
    fn loading_takes_no_more_than_its_share_while_two_keys_always_have_work(
        load in millis(100..5_000), run in millis(1..500), load_share in 0.05..0.9f64, one_client in any::<bool>(),
    ) {
        let (mut rotation, mut estimates) = (Rotation::new(load_share, secs(1 << 30)), Estimates::default());
        let (start, mut now) = (Instant::now(), Duration::ZERO);
        let (mut left, mut resident, mut loads) = ([1_000u32; 2], usize::MAX, 0);
        let waiting = [(0, 0), (usize::from(!one_client), 1)];
        while left.iter().all(|left| *left > 0) {
            let key = match rotation.next(&waiting, false, &estimates, start + now) {
                Next::Stay(key) | Next::Switch { key, .. } => key,
                other => panic!("{other:?} though both have work"),
            };
            rotation.enter(waiting[key].0, &key, start + now);
            if resident != key {
                (resident, loads) = (key, loads + 1);
                now += load;
                estimates.loaded(&key, load);
            }
            rotation.loaded(start + now);
            now += run;
            left[key] -= 1;
        }
        // The last turn may have been cut short by the end of the work.
        let spent = load * (loads - 1);
        prop_assert!(spent.as_secs_f64() <= load_share * now.as_secs_f64() + 1e-6, "{spent:?} of {now:?}");
    }
}

proptest! {
    // Few cases, because 300 keys take long even in virtual time.
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn a_client_with_many_keys_costs_another_no_more_than_one_turn(
        load in millis(1..5_000), run in millis(1..3_000), every in millis(1..20_000),
    ) {
        let many = (1..=300).map(|key| Job { at: Duration::ZERO, client: 0, key, run });
        let one = (0..10).map(|nth| Job { at: every * nth, client: 1, key: 0, run });
        let mut jobs: Vec<Job> = many.chain(one).collect();
        jobs.sort();
        let world = World { slots: 1, loads: vec![load; 301], clients: 2, jobs };
        let longest = world.run(&mut Rotation::new(0.1, secs(600)), &mut Estimates::default()).of_clients;
        let bound = bound(2, load * 9, load, run);
        prop_assert!(longest <= bound + ROUNDING, "{longest:?} > {bound:?}");
    }
}

/// Estimates that know every load and run before the world begins.
fn measured(world: &World, load: Duration, run: Duration) -> Estimates<Key> {
    let mut estimates = Estimates::default();
    for key in 0..world.loads.len() {
        estimates.loaded(&key, load);
        estimates.ran(&key, run);
    }
    estimates
}
