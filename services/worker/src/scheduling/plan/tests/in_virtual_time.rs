//! The whole plan in virtual time: random clients, users, models, contexts, loads and runs against a host that loads
//! and runs as Ollama does. The host checks the rules at each step, and tells how long everybody waited and what
//! everybody got.

mod foretold;
mod least_loads;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

use foreman_ollama::Context;
use foreman_store::{HostTurns, Why, ulid_floor};
use proptest::prelude::*;

use super::*;
use crate::scheduling::gpu_clock::{GpuClock, Reading};
use crate::scheduling::residency::Residency;
use foretold::Forecasting;

const AUTOMATIC: i64 = 4_096;

/// A job that comes at the time `at`, and runs for the time `run`.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Job {
    at: Duration,
    client: usize,
    user: usize,
    model: usize,
    context: Option<i64>,
    priority: i16,
    sync: bool,
    run: Duration,
    /// When it is cancelled, if it has not ended by then.
    cancelled_at: Option<Duration>,
}

#[derive(Debug, Clone)]
struct Workload {
    slots: usize,
    /// How many models may be loaded at once.
    room: usize,
    /// How long each model loads.
    loads: Vec<Duration>,
    /// Of so many loads the last one fails, and all jobs that wait for it fail too.
    failing_load: Option<usize>,
    /// Sorted by time.
    jobs: Vec<Job>,
}

/// What a host has seen.
#[derive(Debug, Default)]
struct Seen {
    loads: usize,
    /// The longest wait of each client: from the time when it has waiting jobs, or was last served, to its next claim.
    longest_waits: BTreeMap<usize, Duration>,
    /// The GPU-seconds of each client and user.
    had: BTreeMap<(usize, usize), f64>,
    /// How far these were apart at most, while all of them waited.
    apart: f64,
    /// The jobs in the order in which they began, each with the time.
    begun: Vec<(JobId, Duration)>,
}

struct Host<'a> {
    workload: &'a Workload,
    plan: Plan,
    start: Instant,
    now: Duration,
    ready: Vec<(JobId, Key, Job)>,
    running: Vec<(Duration, Job, Charge, Key, Reading)>,
    loading: Option<Load>,
    residency: Residency,
    clock: GpuClock,
    /// Since when each client waits, if it does.
    waits: BTreeMap<usize, Duration>,
    forecasting: Option<Forecasting>,
    seen: Seen,
}

/// When a load ends, of which runner, and the jobs that wait for it.
type Load = (Duration, Key, Vec<(Job, Charge)>);

fn load_key(job: &Job) -> Key {
    let context = job.context.map_or_else(|| "any".to_owned(), |length| length.to_string());
    key(&format!("m{}:latest num_ctx={context}", job.model))
}

fn id_of(number: usize) -> JobId {
    ulid_floor(chrono::DateTime::UNIX_EPOCH + Duration::from_secs(number as u64))
}

fn user(number: usize) -> UserName {
    number.to_string().parse().unwrap()
}

impl Workload {
    fn run(&self, turns: &config::Turns, terms: Vec<ClientTerms>) -> Seen {
        let mut host = self.host(turns, terms);
        host.go();
        host.seen
    }

    fn host(&self, turns: &config::Turns, terms: Vec<ClientTerms>) -> Host<'_> {
        let start = Instant::now();
        let mut plan = Plan::new(turns, self.slots);
        let models = 0..self.loads.len();
        plan.published(models.map(|model| key(&format!("m{model}:latest")).model().clone()).collect());
        plan.agreed(terms);
        Host {
            workload: self,
            plan,
            start,
            now: Duration::ZERO,
            ready: Vec::new(),
            running: Vec::new(),
            loading: None,
            residency: Residency::new(self.room),
            clock: GpuClock::new(start),
            waits: BTreeMap::new(),
            forecasting: None,
            seen: Seen::default(),
        }
    }

    fn longest_load(&self) -> Duration {
        self.loads.iter().copied().max().unwrap_or_default()
    }

    fn longest_run(&self) -> Duration {
        self.jobs.iter().map(|job| job.run).max().unwrap_or_default()
    }
}

impl Host<'_> {
    fn go(&mut self) {
        let mut arrivals: VecDeque<(usize, Job)> = self.workload.jobs.iter().cloned().enumerate().collect();
        loop {
            let mut came = false;
            while let Some((number, job)) = arrivals.pop_front_if(|(_, job)| job.at <= self.now) {
                self.waits.entry(job.client).or_insert(self.now);
                self.ready.push((id_of(number), load_key(&job), job));
                came = true;
            }
            if came {
                self.scan();
            }
            self.end_what_ends_now();
            self.cancel();
            while self.claim() {}
            self.check();
            self.foretell();
            let ends = self.running.iter().map(|running| running.0).chain(self.cancellations());
            let next = arrivals.front().map(|(_, job)| job.at).into_iter().chain(ends);
            match next.chain(self.loading.as_ref().map(|load| load.0)).min() {
                Some(next) => self.now = next,
                None if self.ready.is_empty() => break,
                // A turn that is not over yet, and nothing else to do: the decider would decide again with the next scan.
                None => panic!("at a standstill with {} ready jobs", self.ready.len()),
            }
        }
    }

    fn time(&self) -> Instant {
        self.start + self.now
    }

    fn scan(&mut self) {
        let mut groups: BTreeMap<(Key, ClientId, UserName, i16, bool), JobId> = BTreeMap::new();
        for (id, key, job) in &self.ready {
            let (client, user) = (client(job.client as u128), user(job.user));
            let group = (Key::clone(key), client, user, job.priority, job.sync);
            let lowest = groups.entry(group).or_insert(*id);
            *lowest = (*lowest).min(*id);
        }
        let groups = groups.into_iter().map(|((key, client, user, priority, sync), lowest)| Group {
            key,
            client,
            user,
            priority,
            sync,
            lowest,
        });
        self.plan.scanned(groups.collect(), self.time());
    }

    fn end_what_ends_now(&mut self) {
        let now = self.time();
        let (ended, running): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.running).into_iter().partition(|running| running.0 <= self.now);
        self.running = running;
        for (_, job, charge, runner, since) in ended {
            let gpu_seconds = self.clock.ends(since, now);
            *self.seen.had.entry((job.client, job.user)).or_default() += gpu_seconds;
            self.plan.ran(&runner, job.run, gpu_seconds);
            self.plan.ended(&charge, gpu_seconds);
            self.residency.used(&runner, now);
        }
        let waits =
            |whose: &(usize, usize)| self.ready.iter().any(|(_, _, job)| (job.client, job.user) == *whose);
        if self.seen.had.len() > 1 && self.seen.had.keys().all(waits) {
            let had = || self.seen.had.values().copied();
            let apart = had().fold(0.0, f64::max) - had().fold(f64::MAX, f64::min);
            self.seen.apart = self.seen.apart.max(apart);
        }
        if let Some((_, runner, jobs)) = self.loading.take_if(|load| load.0 <= self.now) {
            if self.workload.failing_load.is_some_and(|nth| self.seen.loads.is_multiple_of(nth)) {
                self.plan.charge_load(&runner, self.load_of(&runner));
                self.plan.load_failed(&runner, now);
                jobs.iter().for_each(|(_, charge)| self.plan.ended(charge, 0.0));
                return;
            }
            let length = match runner.context() {
                Context::Length(length) => length,
                Context::Automatic | Context::Any => AUTOMATIC,
            };
            let took = self.load_of(&runner);
            self.plan.charge_load(&runner, took);
            self.plan.loaded(&runner, took, now);
            self.plan.has_context(&runner, length);
            self.residency.loaded(Key::clone(&runner), &[], now);
            jobs.into_iter().for_each(|(job, charge)| self.begin(job, charge, Key::clone(&runner)));
        }
    }

    /// When jobs that have not ended are cancelled.
    fn cancellations(&self) -> impl Iterator<Item = Duration> {
        let loading = self.loading.iter().flat_map(|load| load.2.iter().map(|(job, _)| job));
        let claimed = self.running.iter().map(|running| &running.1).chain(loading);
        self.ready.iter().map(|(_, _, job)| job).chain(claimed).filter_map(|job| job.cancelled_at)
    }

    /// Ends the jobs that are cancelled by now. Of those that wait in the queue the plan learns nothing. A load that no job
    /// needs any more is given up.
    fn cancel(&mut self) {
        let (now, is_cancelled) = (self.now, |job: &Job| job.cancelled_at.is_some_and(|at| at <= self.now));
        self.ready.retain(|(_, _, job)| !is_cancelled(job));
        self.waits.retain(|client, _| self.ready.iter().any(|(_, _, job)| job.client == *client));
        for (_, _, charge, _, since) in self.running.extract_if(.., |running| is_cancelled(&running.1)) {
            let gpu_seconds = self.clock.ends(since, self.start + now);
            self.plan.ended(&charge, gpu_seconds);
        }
        let Some((end, runner, jobs)) = &mut self.loading else { return };
        for (_, charge) in jobs.extract_if(.., |(job, _)| is_cancelled(job)) {
            self.plan.ended(&charge, 0.0);
        }
        if jobs.is_empty() && !self.plan.goes_on_with(runner) {
            let left = *end - now;
            let (_, runner, _) = self.loading.take().unwrap();
            self.plan.charge_load(&runner, self.load_of(&runner) - left);
        }
    }

    fn load_of(&self, runner: &Key) -> Duration {
        let model = runner.model().as_str().trim_start_matches('m').trim_end_matches(":latest");
        self.workload.loads[model.parse::<usize>().unwrap()]
    }

    fn begin(&mut self, job: Job, charge: Charge, runner: Key) {
        let since = self.clock.begins(self.time());
        self.running.push((self.now + job.run, job, charge, runner, since));
    }

    fn busy(&self) -> usize {
        self.running.len() + self.loading.as_ref().map_or(0, |load| load.2.len())
    }

    /// Makes the next claim, if the plan wants one. Returns whether it did.
    fn claim(&mut self) -> bool {
        let (now, busy) = (self.time(), self.busy());
        let resident = if self.loading.is_some() { Vec::new() } else { self.residency.all(|_| false, now) };
        self.plan.are_resident(resident.clone());
        let told = self.plan.turns(std::iter::empty(), now);
        let next = self.plan.next(std::iter::empty(), busy > 0, now);
        check_told(&told, &next);
        // This host holds no job ahead of its slot: as if it held one already.
        let capacity = Capacity { free_slots: self.workload.slots - busy, holds_job: true };
        let needs_no_load = |runner: &Key, _| resident.contains(runner);
        let highest = ulid_floor(chrono::DateTime::<chrono::Utc>::MAX_UTC);
        let order = self.plan.order(next, capacity, needs_no_load, highest, self.time());
        let mut claimed = Vec::new();
        let mut jobs = Vec::new();
        for (place, offer) in order.iter().flat_map(|order| &order.offers).enumerate() {
            for _ in 0..offer.at_most {
                let is_offered = |(id, key, job): &(JobId, Key, Job)| {
                    let of = (client(job.client as u128), user(job.user), job.priority, job.sync);
                    of == (offer.client, offer.user.clone(), offer.priority, offer.sync)
                        && key.as_str() == &*offer.load_key
                        && *id >= offer.lower_bound
                };
                let found = self.ready.iter().position(is_offered);
                let Some(nth) = found.filter(|_| jobs.len() < order.as_ref().unwrap().limit) else { break };
                let (id, _, job) = self.ready.remove(nth);
                claimed.push(Brought {
                    job: id,
                    offer: Some(place),
                    client: offer.client,
                    user: offer.user.clone(),
                });
                jobs.push(job);
            }
        }
        let Some(order) = order else { return false };
        self.seen.begun.extend(claimed.iter().map(|job| (job.job, self.now)));
        let charges = self.plan.brought(&order, claimed, now);
        for job in &jobs {
            self.served(job.client);
        }
        for (job, charge) in jobs.into_iter().zip(charges) {
            if resident.contains(&order.runner) {
                self.plan.is_loaded(&order.runner, now);
                self.begin(job, charge, Key::clone(&order.runner));
            } else if let Some((_, _, waiting)) =
                self.loading.as_mut().filter(|(_, runner, _)| *runner == order.runner)
            {
                waiting.push((job, charge));
            } else {
                assert!(self.busy() == 0, "a switch with requests in flight");
                self.seen.loads += 1;
                let plan = &self.plan;
                self.residency.make_room(&order.runner, |key| plan.waits_since(key), now);
                let end = self.now + self.load_of(&order.runner);
                self.loading = Some((end, Key::clone(&order.runner), vec![(job, charge)]));
            }
        }
        true
    }

    fn served(&mut self, one: usize) {
        let waits = self.ready.iter().any(|(_, _, job)| job.client == one);
        if let Some(since) = self.waits.remove(&one) {
            let longest = self.seen.longest_waits.entry(one).or_default();
            *longest = (self.now - since).max(*longest);
        }
        if waits {
            self.waits.insert(one, self.now);
        }
    }

    fn check(&self) {
        assert!(self.busy() <= self.workload.slots, "more in flight than slots");
        let is_idle = self.busy() == 0 && self.loading.is_none();
        assert!(!is_idle || self.ready.is_empty(), "idle beside {} ready jobs", self.ready.len());
    }
}

/// People are told what the plan does.
fn check_told(told: &HostTurns, next: &Next<ClientId, Key>) {
    match next {
        Next::Stay(_) => assert!(!matches!(told.why, Why::NoMoreJobs | Why::QuantumIsOver), "{told:?}"),
        Next::Resident { .. } => assert!(!matches!(told.why, Why::QuantumIsOver), "{told:?}"),
        Next::WaitForIdle => assert!(matches!(told.why, Why::NoMoreJobs | Why::QuantumIsOver), "{told:?}"),
        Next::Switch { client, key } => {
            assert!(matches!(told.why, Why::NoMoreJobs | Why::QuantumIsOver), "{told:?}");
            let first = told.next.first().expect("a turn comes next");
            assert_eq!((first.client, first.runner.as_str()), (*client, key.as_str()), "{told:?}");
        }
        Next::Rest => assert_eq!(told.next, []),
    }
}

fn millis(range: Range<u64>) -> impl Strategy<Value = Duration> {
    range.prop_map(Duration::from_millis)
}

fn workloads(clients: usize) -> impl Strategy<Value = Workload> {
    let loads = prop::collection::vec(millis(1..5_000), 1..=6);
    (1..=4usize, 1..=3usize, loads).prop_flat_map(move |(slots, room, loads)| {
        let context = prop::option::weighted(0.6, 1..20_000i64);
        let job = (
            millis(0..60_000),
            0..clients,
            0..3usize,
            0..loads.len(),
            context,
            any::<bool>(),
            millis(1..3_000),
        );
        prop::collection::vec(job, 1..120).prop_map(move |jobs| {
            let of = |(at, client, user, model, context, sync, run)| Job {
                at,
                client,
                user,
                model,
                context,
                sync,
                run,
                ..Job::default()
            };
            let mut jobs: Vec<Job> = jobs.into_iter().map(of).collect();
            jobs.sort();
            Workload { slots, room, loads: loads.clone(), failing_load: None, jobs }
        })
    })
}

/// The same with jobs of different priorities, some of which are cancelled, and with loads that fail.
fn troubled(clients: usize) -> impl Strategy<Value = Workload> {
    let trouble = prop::collection::vec((-2..3i16, prop::option::weighted(0.3, millis(0..20_000))), 120);
    (workloads(clients), trouble, prop::option::of(1..6usize)).prop_map(|(mut workload, trouble, failing)| {
        for (job, (priority, cancelled_after)) in workload.jobs.iter_mut().zip(trouble) {
            job.priority = priority;
            job.cancelled_at = cancelled_after.map(|after| job.at + after);
        }
        Workload { failing_load: failing, ..workload }
    })
}

/// Terms of each of so many clients.
fn terms(clients: usize) -> impl Strategy<Value = Vec<ClientTerms>> {
    let terms = (0.2..5.0f64, prop::option::weighted(0.2, 1..4u32), prop::bool::weighted(0.1));
    prop::collection::vec(terms, clients).prop_map(|all| {
        let of = |(number, (weight, max_running, is_over_budget)): (usize, _)| ClientTerms {
            client: client(number as u128),
            weight,
            max_running,
            is_over_budget,
        };
        all.into_iter().enumerate().map(of).collect()
    })
}

/// Two of each have jobs enough for the whole time, all for one model, and the two have jobs of different lengths.
fn steady(slots: usize, runs: [u64; 2], each: usize, whose: impl Fn(usize) -> (usize, usize)) -> Workload {
    let job = |nth: usize| {
        let (client, user) = whose(nth % 2);
        let run = Duration::from_millis(runs[nth % 2]);
        Job { client, user, run, ..Job::default() }
    };
    let mut jobs: Vec<Job> = (0..2 * each).map(job).collect();
    jobs.sort();
    Workload { slots, room: 1, loads: vec![Duration::from_millis(1)], failing_load: None, jobs }
}

fn without_a_longest_wait(load_share: f64) -> config::Turns {
    config::Turns { load_share, max_model_wait: Duration::from_secs(1 << 30), ..turns() }
}

/// So many cases, or as many as `PROPTEST_CASES` asks for.
fn cases(usual: u32) -> ProptestConfig {
    let usual =
        if std::env::var_os("PROPTEST_CASES").is_some() { ProptestConfig::default().cases } else { usual };
    ProptestConfig::with_cases(usual)
}

proptest! {
    #![proptest_config(cases(192))]

    /// [`Host::check`] and [`Host::claim`] have the rules that hold all the time.
    #[test]
    fn every_job_ends_and_no_client_waits_longer_than_the_bound(
        workload in troubled(4), load_share in 0.05..0.9f64, terms in terms(4),
    ) {
        let (load, run) = (workload.longest_load(), workload.longest_run());
        let seen = workload.run(&without_a_longest_wait(load_share), terms.clone());
        let turn = load.mul_f64((1.0 - load_share) / load_share) + load + run;
        for (one, longest) in seen.longest_waits {
            let own = &terms[one];
            if own.is_over_budget || own.max_running.is_some() {
                continue;
            }
            let others: f64 = terms.iter().map(|other| 1.0 + other.weight / own.weight).sum();
            let bound = turn.mul_f64(others - 2.0) + load + run * 2 + Duration::from_micros(1);
            prop_assert!(longest <= bound, "{longest:?} > {bound:?}");
        }
    }

    #[test]
    fn two_clients_that_always_wait_get_the_same_but_for_the_jobs_in_flight(
        slots in 1..4usize, short in 1..500u64, long in 500..3_000u64,
    ) {
        let apart = steady(slots, [short, long], 40, |one| (one, 0)).run(&turns(), Vec::new()).apart;
        let bound = (slots + 1) as f64 * long as f64 / 1_000.0 + 0.01;
        prop_assert!(apart <= bound, "{apart} GPU-seconds apart, {bound} allowed");
    }

    #[test]
    fn two_users_of_a_client_get_the_same_but_for_the_jobs_in_flight(
        slots in 1..4usize, short in 1..500u64, long in 500..3_000u64,
    ) {
        let apart = steady(slots, [short, long], 40, |one| (0, one)).run(&turns(), Vec::new()).apart;
        let bound = (slots + 1) as f64 * long as f64 / 1_000.0 + 0.01;
        prop_assert!(apart <= bound, "{apart} GPU-seconds apart, {bound} allowed");
    }

    #[test]
    fn one_model_needs_two_loads_whatever_contexts_its_jobs_ask_for(
        slots in 1..4usize, needs in prop::collection::vec(prop::option::of(1..8_192i64), 1..100),
    ) {
        let job = |(nth, context): (usize, Option<i64>)| Job {
            client: nth % 5, user: nth % 3, context, sync: nth % 2 == 0, run: Duration::from_millis(10), ..Job::default()
        };
        let mut jobs: Vec<Job> = needs.into_iter().enumerate().map(job).collect();
        jobs.sort();
        let workload = Workload { slots, room: 1, loads: vec![Duration::from_secs(1)], failing_load: None, jobs };
        let loads = workload.run(&turns(), Vec::new()).loads;
        prop_assert!(loads <= 2, "{loads} loads");
    }

    #[test]
    fn models_that_fit_together_are_loaded_once(workload in workloads(4)) {
        let once = |job: &Job| Job { context: None, ..job.clone() };
        let jobs: Vec<Job> = workload.jobs.iter().map(once).collect();
        let models = jobs.iter().map(|job| job.model).collect::<BTreeSet<_>>().len();
        let workload = Workload { room: models, jobs, ..workload };
        let loads = workload.run(&turns(), Vec::new()).loads;
        prop_assert_eq!(loads, models);
    }
}
