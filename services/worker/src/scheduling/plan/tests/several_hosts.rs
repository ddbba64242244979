//! Several hosts in virtual time: each has a plan of its own, looks at the others once a second, and says to them what it
//! loads. The world checks at each load and at each look that no load is wasted and that no host idles beside work that is
//! worth one.

use std::collections::{BTreeMap, BTreeSet};

use foreman_store::{Lease, LeaseNo, ulid_floor};
use proptest::prelude::*;

use super::*;
use crate::scheduling::contexts;
use crate::scheduling::gpu_clock::{GpuClock, Reading};
use crate::scheduling::key::read;
use crate::scheduling::plan::publication::measured;

const LOOK: Duration = Duration::from_secs(1);

/// A host may be idle beside work for as many looks: one may show what the other has published before, and one refuses
/// what another host has said meanwhile.
const MAX_IDLE_LOOKS: usize = 4;

#[derive(Debug, Clone)]
struct Model {
    load: Duration,
    /// All its jobs run for this long, so that the estimates are exact.
    run: Duration,
}

#[derive(Debug, Clone)]
struct Workload {
    models: Vec<Model>,
    slots: Vec<usize>,
    /// When each job comes, and its model. Sorted by time.
    jobs: Vec<(Duration, usize)>,
}

#[derive(Debug, PartialEq, Eq)]
struct SeenLoad {
    at: Duration,
    host: usize,
    model: usize,
}

struct Host {
    plan: Plan,
    slots: usize,
    running: Vec<(Duration, Charge, Key, Reading)>,
    /// When it ends, of which runner, and what was charged for the jobs that wait for it.
    loading: Option<(Duration, Key, Vec<Charge>)>,
    resident: Option<Key>,
    clock: GpuClock,
    idle_looks: usize,
}

struct World<'a> {
    workload: &'a Workload,
    start: Instant,
    now: Duration,
    ready: Vec<(JobId, usize)>,
    hosts: Vec<Host>,
    /// By model: which host has said last that it loads it, under which number, and when.
    intents: HashMap<usize, (usize, i64, Duration)>,
    loads: Vec<SeenLoad>,
    makespan: Duration,
}

fn base(model: usize) -> Key {
    key(&format!("m{model}:latest"))
}

fn load_key(model: usize) -> Key {
    key(&format!("m{model}:latest num_ctx=any"))
}

fn number(runner: &Key) -> usize {
    runner.model().as_str().trim_start_matches('m').trim_end_matches(":latest").parse().unwrap()
}

impl Workload {
    fn run(&self) -> World<'_> {
        let start = Instant::now();
        let host = |slots: &usize| {
            let mut plan = Plan::new(&turns(), *slots);
            plan.published((0..self.models.len()).map(|model| base(model).model().clone()).collect());
            Host {
                plan,
                slots: *slots,
                running: Vec::new(),
                loading: None,
                resident: None,
                clock: GpuClock::new(start),
                idle_looks: 0,
            }
        };
        let mut world = World {
            workload: self,
            start,
            now: Duration::ZERO,
            ready: Vec::new(),
            hosts: self.slots.iter().map(host).collect(),
            intents: HashMap::new(),
            loads: Vec::new(),
            makespan: Duration::ZERO,
        };
        world.go();
        world
    }
}

impl World<'_> {
    fn go(&mut self) {
        let (mut arrived, mut next_look) = (0, Duration::ZERO);
        loop {
            while let Some((at, model)) = self.workload.jobs.get(arrived).filter(|job| job.0 <= self.now) {
                let moment = chrono::DateTime::UNIX_EPOCH + *at + Duration::from_millis(arrived as u64);
                self.ready.push((ulid_floor(moment), *model));
                arrived += 1;
            }
            for host in 0..self.hosts.len() {
                self.end_what_ends_now(host);
            }
            let looks = self.now >= next_look;
            if looks {
                next_look = self.now + LOOK;
                self.look();
            }
            for host in 0..self.hosts.len() {
                self.scan(host);
                while self.decide(host) {}
            }
            if looks {
                self.check_idle();
            }
            let is_over = self.ready.is_empty() && self.hosts.iter().all(|host| host.busy() == 0);
            if is_over && arrived == self.workload.jobs.len() {
                self.makespan = self.now;
                return;
            }
            let ends = self.hosts.iter().flat_map(|host| {
                let runs = host.running.iter().map(|running| running.0);
                runs.chain(host.loading.as_ref().map(|load| load.0))
            });
            let arrival = self.workload.jobs.get(arrived).map(|job| job.0);
            self.now = ends.chain(arrival).chain([next_look]).min().unwrap();
        }
    }

    fn time(&self) -> Instant {
        self.start + self.now
    }

    /// Each host sees what the others publish, and who has said what.
    fn look(&mut self) {
        let neighbour = |number: usize, host: &Host| {
            let published = host.plan.publication(std::iter::empty(), self.time());
            Neighbour {
                id: number.to_string(),
                slots: host.slots as u32,
                models: (0..self.workload.models.len()).map(|model| base(model).model().clone()).collect(),
                loaded: published.turn.iter().filter_map(|runner| read(runner)).collect(),
                measured: published
                    .runners
                    .iter()
                    .map(|one| (read(&one.load_key).unwrap(), measured(one)))
                    .collect(),
            }
        };
        let all: Vec<Neighbour> =
            self.hosts.iter().enumerate().map(|(number, host)| neighbour(number, host)).collect();
        let intents: HashMap<Key, Intent> = self
            .intents
            .iter()
            .map(|(model, (host, number, at))| {
                let is_new = self.now - *at < Duration::from_secs(5);
                (base(*model), Intent { host: host.to_string(), number: *number, is_new })
            })
            .collect();
        for (number, host) in self.hosts.iter_mut().enumerate() {
            let mut others = all.clone();
            others.remove(number);
            host.plan.looked_around(others, intents.clone());
        }
    }

    fn scan(&mut self, host: usize) {
        let mut lowest: BTreeMap<usize, JobId> = BTreeMap::new();
        for (id, model) in &self.ready {
            let first = lowest.entry(*model).or_insert(*id);
            *first = (*first).min(*id);
        }
        let group = |(model, lowest)| Group { lowest, ..group(load_key(model).as_str(), 1) };
        let now = self.time();
        self.hosts[host].plan.scanned(lowest.into_iter().map(group).collect(), now);
    }

    fn end_what_ends_now(&mut self, host: usize) {
        let (now, time) = (self.now, self.time());
        let models = &self.workload.models;
        let host = &mut self.hosts[host];
        let running = std::mem::take(&mut host.running);
        let (ended, running): (Vec<_>, Vec<_>) = running.into_iter().partition(|running| running.0 <= now);
        host.running = running;
        for (_, charge, runner, since) in ended {
            let gpu_seconds = host.clock.ends(since, time);
            host.plan.ran(&runner, models[number(&runner)].run, gpu_seconds);
            host.plan.ended(&charge, gpu_seconds);
        }
        if let Some((_, runner, jobs)) = host.loading.take_if(|load| load.0 <= now) {
            let Model { load, run } = models[number(&runner)];
            host.plan.charge_load(&runner, load);
            host.plan.loaded(&runner, load, time);
            host.resident = Some(Key::clone(&runner));
            for charge in jobs {
                let since = host.clock.begins(time);
                host.running.push((now + run, charge, Key::clone(&runner), since));
            }
        }
    }

    /// Carries out the next thing that this host wants to do. Returns whether there was any.
    fn decide(&mut self, number_of_host: usize) -> bool {
        let time = self.time();
        let host = &mut self.hosts[number_of_host];
        let busy = host.busy();
        let resident = host.resident.clone().filter(|_| host.loading.is_none());
        host.plan.are_resident(resident.iter().cloned().collect());
        let next = host.plan.next(std::iter::empty(), busy > 0, time);
        let needs_no_load = |runner: &Key, _| resident.as_ref() == Some(runner);
        if let Some(word) = host.plan.word(&next, needs_no_load) {
            self.say(number_of_host, word);
            return true;
        }
        let capacity = Capacity { free_slots: host.slots - busy, holds_job: true };
        let highest = ulid_floor(chrono::DateTime::<chrono::Utc>::MAX_UTC);
        let Some(order) = host.plan.order(next, capacity, needs_no_load, highest, time) else { return false };
        let model = number(&order.runner);
        let mut ids: Vec<JobId> = self.ready.iter().filter(|job| job.1 == model).map(|job| job.0).collect();
        ids.sort();
        ids.truncate(order.limit);
        let needs_load = resident.as_ref() != Some(&order.runner);
        if needs_load && host.loading.is_none() && !ids.is_empty() {
            self.check_load(number_of_host, model);
        }
        self.ready.retain(|job| !ids.contains(&job.0));
        let claimed: Vec<Claimed> = ids.into_iter().map(|id| taken(id, model)).collect();
        let host = &mut self.hosts[number_of_host];
        let charges = host.plan.claimed(&order, &claimed, time);
        let Model { load, run } = self.workload.models[model];
        if charges.is_empty() {
            return true;
        }
        match &mut host.loading {
            Some((_, runner, waiting)) if *runner == order.runner => waiting.extend(charges),
            _ if needs_load => {
                assert_eq!(busy, 0, "a switch with requests in flight");
                host.resident = None;
                host.loading = Some((self.now + load, Key::clone(&order.runner), charges));
                self.loads.push(SeenLoad { at: self.now, host: number_of_host, model });
            }
            _ => {
                host.plan.is_loaded(&order.runner, time);
                for charge in charges {
                    let since = host.clock.begins(time);
                    host.running.push((self.now + run, charge, Key::clone(&order.runner), since));
                }
            }
        }
        true
    }

    /// As the store does.
    fn say(&mut self, host: usize, word: Word) {
        let model = number(&word.base);
        let last = self.intents.get(&model).map_or(0, |intent| intent.1);
        let jobs = self.ready.iter().filter(|job| job.1 == model).count();
        let is_said = last == word.seen && jobs >= word.at_least as usize;
        if is_said {
            self.intents.insert(model, (host, last + 1, self.now));
        }
        self.hosts[host].plan.answered(word, &host.to_string(), is_said.then_some(last + 1));
    }

    /// The other hosts that have this model loaded, or load it.
    fn keepers(&self, host: usize, model: usize) -> Vec<&Host> {
        let others = self.hosts.iter().enumerate().filter(|(other, _)| *other != host);
        others.map(|(_, other)| other).filter(|other| other.keeps(model)).collect()
    }

    /// How long these hosts need for the ready jobs of this model.
    fn drain(&self, by: &[&Host], model: usize) -> Duration {
        let jobs = self.ready.iter().filter(|job| job.1 == model).count();
        let slots: usize = by.iter().map(|host| host.slots).sum();
        self.workload.models[model].run.mul_f64(jobs as f64 / slots as f64)
    }

    fn check_load(&self, host: usize, model: usize) {
        let keepers = self.keepers(host, model);
        if !keepers.is_empty() {
            let (drain, load) = (self.drain(&keepers, model), self.workload.models[model].load);
            assert!(
                drain >= load,
                "host {host} loads m{model} for {load:?}, and others need {drain:?} for it"
            );
        }
    }

    /// No host has been idle for some looks while jobs of a model wait that nobody has loaded, or that take others longer
    /// than the load here.
    fn check_idle(&mut self) {
        let is_worth_it = |host: usize, model: usize| {
            let keepers = self.keepers(host, model);
            let is_measured = keepers.iter().any(|keeper| keeper.has_run(model));
            let load = self.workload.models[model].load;
            keepers.is_empty() || (is_measured && self.drain(&keepers, model) > load)
        };
        let models: BTreeSet<usize> = self.ready.iter().map(|job| job.1).collect();
        let idle = |host: usize| {
            self.hosts[host].busy() == 0 && models.iter().any(|model| is_worth_it(host, *model))
        };
        let idle: Vec<bool> = (0..self.hosts.len()).map(idle).collect();
        for (number, (host, is_idle)) in self.hosts.iter_mut().zip(idle).enumerate() {
            host.idle_looks = if is_idle { host.idle_looks + 1 } else { 0 };
            let waiting = self.ready.len();
            assert!(
                host.idle_looks <= MAX_IDLE_LOOKS,
                "host {number} idles at {:?} beside {waiting} jobs",
                self.now
            );
        }
    }

    fn loads_of(&self, model: usize) -> Vec<usize> {
        self.loads.iter().filter(|load| load.model == model).map(|load| load.host).collect()
    }
}

impl Host {
    fn busy(&self) -> usize {
        self.running.len() + self.loading.as_ref().map_or(0, |load| load.2.len())
    }

    fn keeps(&self, model: usize) -> bool {
        let loading = self.loading.as_ref().map(|load| &load.1);
        loading.or(self.resident.as_ref()).is_some_and(|runner| number(runner) == model)
    }

    fn has_run(&self, model: usize) -> bool {
        let published = self.plan.publication(std::iter::empty(), Instant::now()).runners;
        let of = |runner: &Key| contexts::base(runner) == base(model);
        published.iter().any(|one| one.usual_run.is_some() && of(&read(&one.load_key).unwrap()))
    }
}

fn taken(job_id: JobId, model: usize) -> Claimed {
    Claimed {
        lease: Lease { job_id, no: LeaseNo(1) },
        client: client(1),
        user: UserName::default(),
        sync: false,
        api: None,
        attempt: 1,
        failures: 0,
        max_attempts: None,
        priority: 0,
        load_key: load_key(model).as_str().to_owned(),
        model_label: String::new(),
        path: String::new(),
        bytes: 0,
        body: None,
        permit: Permit::Ask,
        traceparent: None,
        eligible_at: chrono::DateTime::UNIX_EPOCH,
    }
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// So many jobs of each of these models, all there from the start, for two hosts with one slot each.
fn at_once(jobs: &[usize], load: f64, run: f64) -> Workload {
    let models = vec![Model { load: seconds(load), run: seconds(run) }; jobs.len()];
    let jobs = jobs.iter().enumerate().flat_map(|(model, count)| vec![(Duration::ZERO, model); *count]);
    Workload { models, slots: vec![1, 1], jobs: jobs.collect() }
}

#[test]
fn four_models_settle_on_two_hosts_while_both_are_busy() {
    let workload = at_once(&[400; 4], 1.0, 0.1);
    let world = workload.run();
    let both_are_busy = |load: &&SeenLoad| load.at < seconds(70.0);
    let mut homes: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    for load in world.loads.iter().filter(both_are_busy) {
        homes.entry(load.model).or_default().insert(load.host);
    }
    assert_eq!(homes.len(), 4);
    assert!(homes.values().all(|hosts| hosts.len() == 1), "{:?}", world.loads);
    let at = |host: usize| homes.values().filter(|hosts| hosts.contains(&host)).count();
    assert_eq!([at(0), at(1)], [2, 2]);
    assert!(world.makespan < seconds(95.0), "{:?}", world.makespan);
}

#[test]
fn a_second_host_helps_where_that_is_worth_a_load_and_not_with_a_small_rest() {
    let small = at_once(&[8], 1.0, 0.1);
    assert_eq!(small.run().loads_of(0).len(), 1, "0.8 s of work for a load of 1 s");
    let large = at_once(&[200], 1.0, 0.1);
    let world = large.run();
    let mut hosts = world.loads_of(0);
    hosts.sort();
    assert_eq!(hosts, [0, 1]);
    assert!(world.makespan < seconds(14.0), "{:?} for 20 s of work on two hosts", world.makespan);
}

#[test]
fn of_two_idle_hosts_one_comes_to_help() {
    // Worth the first load, and after that no other.
    let workload = Workload { slots: vec![1, 1, 1], ..at_once(&[35], 1.5, 0.1) };
    assert_eq!(workload.run().loads_of(0).len(), 2);
}

fn workloads() -> impl Strategy<Value = Workload> {
    let millis = |range: std::ops::Range<u64>| range.prop_map(Duration::from_millis);
    let model = (millis(100..8_000), millis(50..2_000)).prop_map(|(load, run)| Model { load, run });
    let slots = prop::collection::vec(1..3usize, 2..=3);
    (prop::collection::vec(model, 1..=5), slots).prop_flat_map(move |(models, slots)| {
        let job = (millis(0..60_000), 0..models.len());
        prop::collection::vec(job, 1..150).prop_map(move |mut jobs| {
            jobs.sort();
            Workload { models: models.clone(), slots: slots.clone(), jobs }
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// [`World::check_load`] and [`World::check_idle`] have the rules.
    #[test]
    fn no_load_is_wasted_and_no_host_idles_beside_work_that_is_worth_one(workload in workloads()) {
        let world = workload.run();
        prop_assert!(world.ready.is_empty());
    }
}
