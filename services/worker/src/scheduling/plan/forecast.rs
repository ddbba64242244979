//! Foretells when the waiting jobs begin. A copy of the plan runs ahead in virtual time, on a host whose loads and runs
//! take as long as was measured. So the forecast has the order in which the plan itself would claim the jobs, and no
//! second model of the plan has to be kept in step with it. Pure.
//!
//! It knows nothing of jobs that are still to come, and takes every run for a usual one. Waits turn out longer for that,
//! so people are told stretched times (`told_times.rs`).

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use foreman_ollama::ModelName;
use foreman_store::{
    ClientId, Forecast, Foreseen, ForeseenGroup, HeldBack, JobId, ReadyGroup, UserName, ulid_floor,
};
use tokio::time::Instant;

use super::{Brought, Capacity, Charge, Plan};
use crate::scheduling::backlog::Group;
use crate::scheduling::gpu_clock::{GpuClock, Reading};
use crate::scheduling::key::{Key, RunsOn};
use crate::scheduling::residency::Residency;

/// Foretell at most this many jobs. Whoever waits behind more of them is told that.
pub(crate) const MOST: usize = 1_000;

/// How long a load or run takes where none of any model was measured. Then only the order is told, and no time.
const NOBODY_KNOWS: Duration = Duration::from_secs(1);

/// A host and its plan at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Start {
    pub(crate) plan: Plan,
    pub(crate) now: Instant,
    pub(crate) slots: usize,
    pub(crate) gpu: GpuClock,
    pub(crate) residency: Residency,
    /// The runner that is being loaded, and since when.
    pub(crate) loading: Option<(Key, Instant)>,
    pub(crate) running: Vec<UnderWay>,
    /// Claimed jobs that wait for a slot, in their order.
    pub(crate) held: Vec<(JobId, UnderWay)>,
}

/// A claimed job.
#[derive(Debug, Clone)]
pub(crate) struct UnderWay {
    pub(crate) charge: Charge,
    pub(crate) runner: Key,
    pub(crate) runs_on: RunsOn,
    /// When it began on the GPU. `None` while it waits for a slot or a load, and for a job of the cloud.
    pub(crate) since: Option<Reading>,
}

/// The jobs of a group that were read.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) group: Group,
    /// In their order.
    pub(crate) jobs: VecDeque<JobId>,
    /// Whether the group may have more jobs than these.
    pub(crate) has_more: bool,
}

/// What a run ahead has found.
#[derive(Debug)]
pub(crate) struct Foretold {
    pub(crate) forecast: Forecast,
    /// How many jobs of each group were reached.
    pub(crate) reached: Vec<usize>,
    /// Whether it ended because more jobs of a group were needed than were read.
    pub(crate) needs_more: bool,
}

impl Start {
    /// The groups whose jobs wait for this host.
    pub(crate) fn groups(&self) -> Vec<Group> {
        self.plan.work.groups().cloned().collect()
    }

    /// Runs ahead, as long as `may_go_on` says so. `waiting` has the jobs of [`Start::groups`].
    pub(crate) fn foretell(self, waiting: Vec<Read>, may_go_on: impl FnMut() -> bool) -> Foretold {
        Ahead::new(self, waiting).go(may_go_on)
    }
}

/// The name of a group: load key, client, user, priority, and whether the jobs are sync calls.
type GroupName = (String, ClientId, UserName, i16, bool);

/// The host in virtual time.
struct Ahead {
    plan: Plan,
    start: Instant,
    /// Since the start.
    now: Duration,
    slots: usize,
    gpu: GpuClock,
    residency: Residency,
    loading: Option<Load>,
    running: Vec<Run>,
    held: VecDeque<(JobId, UnderWay)>,
    waiting: Vec<Read>,
    by_name: HashMap<GroupName, usize>,
    usual: Usual,
    /// From this time on everything depends on a time that nobody has measured.
    known_until: Option<Duration>,
    loads: u32,
    needs_more: bool,
    reached: Vec<usize>,
    foreseen: Vec<(JobId, ForeseenGroup, Option<Duration>, u32)>,
    held_back: HashMap<ClientId, Option<HeldBack>>,
}

/// What loads and runs of a runner take that was not measured itself.
struct Usual {
    load: Option<Duration>,
    run: Option<Duration>,
}

struct Load {
    ends: Duration,
    runner: Key,
    took: Duration,
    /// The jobs that wait for it.
    jobs: Vec<Charge>,
}

struct Run {
    ends: Duration,
    charge: Charge,
    runner: Key,
    took: Duration,
    since: Option<Reading>,
}

impl Ahead {
    fn new(start: Start, waiting: Vec<Read>) -> Self {
        let Start { plan, now, slots, gpu, residency, loading, running, held } = start;
        let mut clients: BTreeSet<ClientId> = waiting.iter().map(|read| read.group.client).collect();
        clients.extend(held.iter().map(|(_, job)| job.charge.client));
        let held_back = |client: &ClientId| {
            let others = clients.iter().copied().filter(|other| other != client);
            (*client, plan.work.fairness.held_back(*client, others))
        };
        let held_back = clients.iter().map(held_back).collect();
        let by_name = waiting.iter().enumerate().map(|(nth, read)| (name(&read.group), nth)).collect();
        let mut ahead = Self {
            usual: Usual { load: plan.estimates.median_load(), run: plan.estimates.median_run() },
            plan,
            start: now,
            now: Duration::ZERO,
            slots,
            gpu,
            residency,
            loading: None,
            running: Vec::new(),
            held: held.into(),
            reached: vec![0; waiting.len()],
            waiting,
            by_name,
            known_until: None,
            loads: 0,
            needs_more: false,
            foreseen: Vec::new(),
            held_back,
        };
        if let Some((runner, since)) = loading {
            let took = ahead.load_of(&runner);
            let ends = took.saturating_sub(now.saturating_duration_since(since));
            ahead.loading = Some(Load { ends, runner, took, jobs: Vec::new() });
        }
        for job in running {
            match &mut ahead.loading {
                Some(load) if job.runs_on == RunsOn::Gpu && job.since.is_none() => load.jobs.push(job.charge),
                _ => ahead.runs(job),
            }
        }
        ahead
    }

    fn go(mut self, mut may_go_on: impl FnMut() -> bool) -> Foretold {
        let loading = self.loading.as_ref().map(|load| model(&load.runner));
        let on_gpu = self.running.iter().find(|run| run.since.is_some());
        let running = on_gpu.map(|run| model(&run.runner));
        let has_jobs = self.waiting.iter().filter(|read| !read.jobs.is_empty());
        let groups = has_jobs.map(|read| {
            let lowest = read.jobs.front().copied().unwrap_or(read.group.lowest);
            Group { lowest, ..read.group.clone() }
        });
        self.plan.scanned(groups.collect(), self.start);
        while may_go_on() {
            self.end_what_ends_now();
            self.unload();
            self.begin_held();
            while !self.is_over() && self.claim() && may_go_on() {}
            let ends = self.running.iter().map(|run| run.ends);
            match ends.chain(self.loading.as_ref().map(|load| load.ends)).min() {
                Some(next) if !self.is_over() => self.now = next,
                _ => break,
            }
        }
        let is_whole = self.waiting.iter().all(|read| read.jobs.is_empty() && !read.has_more);
        let (groups, jobs) = numbered(self.foreseen);
        let forecast = Forecast { loading, running, groups, jobs, is_whole };
        Foretold { forecast, reached: self.reached, needs_more: self.needs_more }
    }

    fn is_over(&self) -> bool {
        self.needs_more || self.foreseen.len() >= MOST
    }

    fn time(&self) -> Instant {
        self.start + self.now
    }

    fn end_what_ends_now(&mut self) {
        let now = self.time();
        for run in self.running.extract_if(.., |run| run.ends <= self.now) {
            let gpu_seconds = run.since.map_or(0.0, |since| self.gpu.ends(since, now));
            self.plan.ran(&run.runner, run.took, gpu_seconds);
            self.plan.ended(&run.charge, gpu_seconds);
            self.residency.used(&run.runner, now);
        }
        if let Some(load) = self.loading.take_if(|load| load.ends <= self.now) {
            self.plan.charge_load(&load.runner, load.took);
            self.plan.loaded(&load.runner, load.took, now);
            self.residency.loaded(Key::clone(&load.runner), &[], now);
            for charge in load.jobs {
                self.begin(charge, Key::clone(&load.runner), RunsOn::Gpu);
            }
        }
    }

    /// Unloads what an operator wants unloaded, once nothing of it runs. That takes no time here.
    fn unload(&mut self) {
        let at_work = self.running.iter().map(|run| &run.runner);
        let at_work: Vec<Key> =
            at_work.chain(self.loading.as_ref().map(|load| &load.runner)).cloned().collect();
        let runs = |model: &ModelName| at_work.iter().any(|runner| runner.model() == model);
        let (waiting, now): (BTreeSet<_>, BTreeSet<_>) =
            self.plan.work.presence.unloading().iter().cloned().partition(runs);
        for model in &now {
            self.residency.unloaded(model);
            self.plan.unloaded(model, self.time());
        }
        self.plan.are_unloading(waiting);
    }

    fn begin_held(&mut self) {
        while self.busy() < self.slots
            && let Some((id, job)) = self.held.pop_front()
        {
            self.foresee(id, job.charge.client, &job.runner, 0);
            self.begin_or_load(job.charge, job.runner, job.runs_on);
        }
    }

    /// What is loaded. Nothing can run without a load while another load is under way.
    fn resident(&self) -> Vec<Key> {
        if self.loading.is_some() {
            return Vec::new();
        }
        let is_running = |key: &Key| self.running.iter().any(|run| run.runner == *key);
        self.residency.all(is_running, self.time())
    }

    fn busy(&self) -> usize {
        self.running.len() + self.loading.as_ref().map_or(0, |load| load.jobs.len())
    }

    /// Makes the next claim, if the plan wants one. Returns whether it did.
    fn claim(&mut self) -> bool {
        let (now, busy) = (self.time(), self.busy() + self.held.len());
        let on_gpu = self.running.iter().any(|run| run.since.is_some());
        let held = self.held.iter().filter(|(_, job)| job.runs_on == RunsOn::Gpu);
        let held = held.map(|(_, job)| (job.charge.client, Key::clone(&job.runner)));
        let resident = self.resident();
        self.plan.are_resident(resident.clone());
        let next = self.plan.next(held, on_gpu || self.loading.is_some(), now);
        // No job is held ahead of its slot: as if one were held already.
        let capacity = Capacity { free_slots: self.slots.saturating_sub(busy), holds_job: true };
        let needs_no_load = |runner: &Key, runs_on| runs_on == RunsOn::Cloud || resident.contains(runner);
        let highest = ulid_floor(chrono::DateTime::<chrono::Utc>::MAX_UTC);
        let Some(order) = self.plan.order(next, capacity, needs_no_load, highest, now) else { return false };
        let mut brought = Vec::new();
        let mut taken = Vec::new();
        for (nth, offer) in order.offers.iter().enumerate() {
            let name =
                (offer.load_key.to_string(), offer.client, offer.user.clone(), offer.priority, offer.sync);
            let Some(group) = self.by_name.get(&name).copied() else { continue };
            for _ in 0..offer.at_most {
                if taken.len() == order.limit {
                    break;
                }
                let Some(job) = self.waiting[group].jobs.pop_front() else {
                    if self.waiting[group].has_more {
                        self.needs_more = true;
                        return false;
                    }
                    break;
                };
                brought.push(Brought {
                    job,
                    offer: Some(nth),
                    client: offer.client,
                    user: offer.user.clone(),
                });
                taken.push((job, group));
            }
        }
        let charges = self.plan.brought(&order, brought, now);
        let needs_load = !needs_no_load(&order.runner, order.runs_on);
        let loads = u32::from(needs_load && self.loading.is_none());
        for (job, group) in taken.iter().copied() {
            self.reached[group] += 1;
            self.foresee(job, self.waiting[group].group.client, &order.runner, loads);
        }
        for charge in charges {
            self.begin_or_load(charge, Key::clone(&order.runner), order.runs_on);
        }
        true
    }

    /// This job begins now, after so many loads more.
    fn foresee(&mut self, job: JobId, client: ClientId, runner: &Key, loads: u32) {
        let held_back = self.held_back.get(&client).copied().flatten();
        let group = ForeseenGroup { client, model: model(runner), held_back };
        let is_known = self.known_until.is_none_or(|known| self.now < known);
        self.foreseen.push((job, group, is_known.then_some(self.now), self.loads + loads));
    }

    fn begin_or_load(&mut self, charge: Charge, runner: Key, runs_on: RunsOn) {
        if runs_on == RunsOn::Cloud {
            return self.begin(charge, runner, runs_on);
        }
        if let Some(load) = self.loading.as_mut().filter(|load| load.runner == runner) {
            load.jobs.push(charge);
        } else if self.resident().contains(&runner) {
            self.plan.is_loaded(&runner, self.time());
            self.begin(charge, runner, runs_on);
        } else {
            self.loads += 1;
            let (plan, now) = (&self.plan, self.time());
            self.residency.make_room(&runner, |key| plan.waits_since(key), now);
            let took = self.load_of(&runner);
            self.loading = Some(Load { ends: self.now + took, runner, took, jobs: vec![charge] });
        }
    }

    fn begin(&mut self, charge: Charge, runner: Key, runs_on: RunsOn) {
        let since = (runs_on == RunsOn::Gpu).then(|| self.gpu.begins(self.time()));
        self.runs(UnderWay { charge, runner, runs_on, since });
    }

    /// A run that lasts for longer than usual already is taken to end at once.
    fn runs(&mut self, job: UnderWay) {
        let took = self.run_of(&job.runner);
        let began = job.since.map_or(self.time(), |since| since.at);
        let ends = (began + took).saturating_duration_since(self.start).max(self.now);
        self.running.push(Run { ends, charge: job.charge, runner: job.runner, took, since: job.since });
    }

    fn load_of(&mut self, runner: &Key) -> Duration {
        let measured = Some(self.plan.estimates.load(runner)).filter(|load| !load.is_zero());
        self.known(measured.or(self.usual.load))
    }

    fn run_of(&mut self, runner: &Key) -> Duration {
        self.known(self.plan.estimates.usual_run(runner).or(self.usual.run))
    }

    fn known(&mut self, time: Option<Duration>) -> Duration {
        if time.is_none() {
            self.known_until.get_or_insert(self.now);
        }
        time.unwrap_or(NOBODY_KNOWS)
    }
}

fn name(group: &Group) -> GroupName {
    (group.key.as_str().to_owned(), group.client, group.user.clone(), group.priority, group.sync)
}

fn model(runner: &Key) -> String {
    runner.model().as_str().to_owned()
}

/// Each group once, and the jobs with the number of their group.
fn numbered(
    foreseen: Vec<(JobId, ForeseenGroup, Option<Duration>, u32)>,
) -> (Vec<ForeseenGroup>, Vec<Foreseen>) {
    let mut groups: Vec<ForeseenGroup> = Vec::new();
    let mut numbers: HashMap<(ClientId, String), usize> = HashMap::new();
    let mut jobs = Vec::with_capacity(foreseen.len());
    for (job, group, begins, loads) in foreseen {
        let number = *numbers.entry((group.client, group.model.clone())).or_insert_with(|| {
            groups.push(group);
            groups.len() - 1
        });
        let begins_in_ms = begins.and_then(|begins| u64::try_from(begins.as_millis()).ok());
        jobs.push(Foreseen { job, group: number, begins_in_ms, loads });
    }
    (groups, jobs)
}

/// The group as the store asks for it.
impl From<&Group> for ReadyGroup {
    fn from(group: &Group) -> Self {
        Self {
            load_key: group.key.as_str().to_owned(),
            client: group.client,
            user: group.user.clone(),
            priority: group.priority,
            sync: group.sync,
            lowest: group.lowest,
        }
    }
}
