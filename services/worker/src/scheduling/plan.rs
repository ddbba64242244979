//! Decides which jobs to claim next: for which runner, for which client first, and how many. Pure.

pub(crate) mod forecast;
mod outlook;
pub(crate) mod publication;
mod unloading;
mod waiting;
mod work;

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use foreman_ollama::ModelName;
use foreman_store::{Claimed, ClientId, ClientTerms, JobId, Offer, Permit, UserName};
use tokio::time::Instant;

use super::backlog::{Group, ScanNo};
use super::contexts::Contexts;
use super::division::Division;
use super::estimates::Estimates;
use super::fairness::Picking;
use super::key::{Key, RunsOn};
use super::neighbours::{Intent, Neighbour, Neighbours, Word};
use super::rotation::{Gpu, Next, Rotation, Waiting as _};
use crate::config;
use waiting::WaitingForGpu;
use work::Work;

/// Claim one job ahead of its slot only if runs of its key usually take less than this. Then Ollama gets its next job
/// without waiting for Postgres. During a longer run the job would be held for long, and the wait for a claim is short
/// beside it.
const HOLD_AHEAD_OF: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub(crate) struct Plan {
    work: Work,
    rotation: Rotation<ClientId, UserName, Key>,
    estimates: Estimates<Key>,
    division: Division<ClientId>,
    /// The runners whose requests need no load before them.
    resident: Vec<Key>,
    neighbours: Neighbours,
    /// Whether the cloud comes before the GPU in the next claim.
    cloud_next: bool,
    last_in_cloud: Option<Key>,
}

/// How many jobs the host can take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Capacity {
    /// Slots with neither a running nor a held job.
    pub(crate) free_slots: usize,
    /// Whether a job is held already.
    pub(crate) holds_job: bool,
}

/// One claim to make.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    /// What the jobs run on. For jobs of the cloud, their own load key.
    pub(crate) runner: Key,
    pub(crate) runs_on: RunsOn,
    pub(crate) offers: Vec<Offer>,
    pub(crate) limit: usize,
    pub(crate) permit: Permit,
    /// When the claim was asked for, or earlier.
    pub(crate) asked_at: Instant,
    /// The scan that the offers came from.
    pub(super) scan: ScanNo,
}

/// A claim before its offers are made.
struct Wish {
    runner: Key,
    runs_on: RunsOn,
    /// The client whose turn the claim is for. Its jobs are offered before all others.
    first: Option<ClientId>,
    /// No jobs of others are offered: if the first client has none any more, its turn must not become one of theirs.
    only_first: bool,
    limit: usize,
    permit: Permit,
}

/// A job that the claim of an order has brought.
#[derive(Debug)]
struct Brought {
    job: JobId,
    /// For which offer of the order.
    offer: Option<usize>,
    client: ClientId,
    user: UserName,
}

/// What a claimed job was charged, and to whom.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Charge {
    pub(crate) client: ClientId,
    pub(super) user: UserName,
    pub(super) gpu_seconds: f64,
}

#[cfg(test)]
impl Charge {
    pub(crate) fn nothing(client: ClientId) -> Self {
        Self { client, user: UserName::default(), gpu_seconds: 0.0 }
    }
}

impl Plan {
    /// For a host that runs as many jobs at the same time as it has slots.
    pub(crate) fn new(turns: &config::Turns, slots: usize) -> Self {
        Self {
            work: Work::new(Contexts::new(turns.context_fit, turns.context_max), slots),
            rotation: Rotation::new(turns.load_share, turns.max_model_wait),
            estimates: Estimates::default(),
            division: Division::default(),
            resident: Vec::new(),
            neighbours: Neighbours::default(),
            cloud_next: false,
            last_in_cloud: None,
        }
    }

    /// A scan found ready jobs in these groups, and in no others.
    pub(crate) fn scanned(&mut self, groups: Vec<Group>, now: Instant) {
        // Whoever is new in it counts as the least of those who have waited until now.
        self.work.fairness.wait_from(&self.waiting(&[], self.goes_on(&[])).least());
        self.work.scanned(groups);
        let (here, goes_on) = (self.here(), self.goes_on(&[]));
        let waiting = WaitingForGpu::new(&self.work, &[], &here, goes_on, &self.neighbours, &self.estimates);
        self.rotation.line_up(&waiting, now);
        let least = waiting.least();
        self.work.fairness.wait_from(&least);
        self.rotation.forget_turns(|client, user| self.work.backlog.has(*client, user));
        let weight = |client: &ClientId| (*client, self.work.fairness.weight(*client));
        self.division.scanned(self.rotation.clients().map(weight), now);
    }

    /// The requests of these runners need no load before them, and those of no others.
    pub(crate) fn are_resident(&mut self, runners: Vec<Key>) {
        self.resident = runners;
    }

    pub(crate) fn is_resident(&self, runner: &Key) -> bool {
        self.resident.contains(runner)
    }

    /// A look at the other hosts has found this.
    pub(crate) fn looked_around(&mut self, hosts: Vec<Neighbour>, intents: HashMap<Key, Intent>) {
        self.neighbours.looked(hosts, intents);
    }

    /// The host has these models now, and no others.
    pub(crate) fn published(&mut self, models: BTreeSet<ModelName>) {
        self.work.presence.published(models);
    }

    /// These clients have terms of their own, and no others.
    pub(crate) fn agreed(&mut self, terms: Vec<ClientTerms>) {
        self.work.fairness.agreed(terms);
    }

    /// Ollama did not find the model of this runner.
    pub(crate) fn missed(&mut self, runner: &Key) {
        self.work.presence.missed(runner.model());
    }

    /// A runner was loaded.
    pub(crate) fn loaded(&mut self, runner: &Key, took: Duration, now: Instant) {
        self.estimates.loaded(runner, took);
        self.rotation.loaded(now);
        self.is_loaded(runner, now);
    }

    /// This runner is resident. If it has the turn, its quantum runs since the last load.
    pub(crate) fn is_loaded(&mut self, runner: &Key, now: Instant) {
        if self.rotation.has_turn(runner) {
            self.rotation.is_resident(now);
        }
    }

    /// Ollama says that this runner, which is loaded, has a context of this length.
    pub(crate) fn has_context(&mut self, runner: &Key, length: i64) {
        self.work.contexts.learn(runner, length);
    }

    /// How long the context of this runner is, as far as Ollama has told it.
    pub(crate) fn context(&self, runner: &Key) -> Option<i64> {
        self.work.contexts.length(runner)
    }

    /// What Ollama would load for a job of this load key without us.
    pub(crate) fn straight(&self, job: &Key) -> Key {
        self.work.contexts.straight(job)
    }

    /// Ollama was away, or has unloaded everything. It may be another one by now.
    pub(crate) fn doubt_contexts(&mut self) {
        self.work.contexts.doubt();
    }

    /// A load of this runner is over, whatever came of it, and has had this much of the GPU's time. If the runner has the turn,
    /// the load was for the client whose turn it is, and for the user that alone waited for it.
    pub(crate) fn charge_load(&mut self, runner: &Key, time: Duration) {
        if let Some(client) = self.rotation.client().filter(|_| self.rotation.has_turn(runner)) {
            self.work.loaded(*client, self.rotation.user(), time.as_secs_f64());
            self.division.got(client, self.work.fairness.weight(*client), time.as_secs_f64());
        }
    }

    /// The load of this runner failed. If it has the turn, the turn ends: otherwise a model that cannot be loaded
    /// would keep its turn until its whole queue has failed.
    pub(crate) fn load_failed(&mut self, runner: &Key, now: Instant) {
        if self.rotation.has_turn(runner) {
            self.rotation.leave(now);
        }
    }

    /// A claimed job has run to its end, for this long, and had this much of the GPU.
    pub(crate) fn ran(&mut self, runner: &Key, took: Duration, gpu_seconds: f64) {
        self.estimates.ran(runner, took, gpu_seconds);
    }

    /// A claimed job is ours no longer. It has had this much of the GPU.
    pub(crate) fn ended(&mut self, charge: &Charge, gpu_seconds: f64) {
        self.division.got(&charge.client, self.work.fairness.weight(charge.client), gpu_seconds);
        let more = gpu_seconds - charge.gpu_seconds;
        self.work.ended(charge, more);
    }

    /// The longest time that a client of weight 1 with work waits for its next claim.
    fn longest_wait(&self) -> Duration {
        self.rotation.bound(self.work.fairness.turns_of_others(self.rotation.clients()), &self.estimates)
    }

    /// Since when this runner has waited for its next turn. `None` if it has no work.
    pub(crate) fn waits_since(&self, runner: &Key) -> Option<Instant> {
        self.rotation.waits_since(runner)
    }

    /// Whether this runner has the turn and still has ready jobs.
    pub(crate) fn goes_on_with(&self, runner: &Key) -> bool {
        self.rotation.has_turn(runner) && self.work.has(runner)
    }

    /// Whether jobs of the host's models are ready, even if their client may have no other job run now.
    pub(crate) fn has_ready_jobs(&self) -> bool {
        self.work.groups().next().is_some()
    }

    /// Whether there are ready jobs that this host can run.
    pub(crate) fn work_waits(&self) -> bool {
        self.work.waits()
            && (!self.neighbours.are_there()
                || !self.work.waiting_for_cloud().is_empty()
                || self.waiting(&[], false).clients().next().is_some())
    }

    /// Whether the runner that has the turn has work. A held job is work too.
    fn goes_on(&self, held: &[(ClientId, Key)]) -> bool {
        let is_held = |runner: &Key| held.iter().any(|(_, key)| key == runner);
        self.rotation.turn().is_some_and(|runner| is_held(runner) || self.work.has(runner))
    }

    /// The runners that have the turn or are loaded.
    fn here(&self) -> Vec<Key> {
        self.rotation.turn().into_iter().chain(&self.resident).cloned().collect()
    }

    fn waiting<'a>(&'a self, held: &'a [(ClientId, Key)], goes_on: bool) -> WaitingForGpu<'a> {
        let (neighbours, estimates) = (&self.neighbours, &self.estimates);
        WaitingForGpu::new(&self.work, held, &self.here(), goes_on, neighbours, estimates)
    }

    /// What this host must say to the others before it does this next, if anything.
    pub(crate) fn word(
        &self,
        next: &Next<ClientId, Key>,
        needs_no_load: impl Fn(&Key, RunsOn) -> bool,
    ) -> Option<Word> {
        let Next::Switch { key, .. } = next else { return None };
        let own = self.estimates.measured(key);
        let load_keys = self.work.load_keys(key);
        let here = self.rotation.turn().into_iter().chain(&self.resident);
        self.neighbours.word(key, here, &own, load_keys.iter()).filter(|_| !needs_no_load(key, RunsOn::Gpu))
    }

    /// Postgres has this host's word, under this number, or has refused it.
    pub(crate) fn answered(&mut self, word: Word, host: &str, number: Option<i64>) {
        self.neighbours.answered(word, host, number);
    }

    /// Which runner has the GPU next, and for which client. `held` are client and runner of each held job: a runner
    /// with held jobs has work, even if no more of its jobs are ready.
    pub(crate) fn next(
        &mut self,
        held: impl Iterator<Item = (ClientId, Key)>,
        gpu_is_busy: bool,
        now: Instant,
    ) -> Next<ClientId, Key> {
        let held: Vec<_> = held.collect();
        let (here, goes_on) = (self.here(), self.goes_on(&held));
        let (work, neighbours, estimates) = (&self.work, &self.neighbours, &self.estimates);
        let waiting = || WaitingForGpu::new(work, &held, &here, goes_on, neighbours, estimates);
        let standing = |client: &ClientId| work.fairness.standing(*client);
        let gpu = Gpu { resident: &self.resident, is_busy: gpu_is_busy, estimates };
        self.rotation.next(goes_on, waiting, standing, gpu, now)
    }

    /// The next claim to make, if any. `needs_no_load` tells whether jobs can run on a runner at once.
    /// `lowest_uncommitted` is the lowest id that a job not yet committed may have.
    pub(crate) fn order(
        &mut self,
        next: Next<ClientId, Key>,
        capacity: Capacity,
        needs_no_load: impl Fn(&Key, RunsOn) -> bool,
        lowest_uncommitted: JobId,
        now: Instant,
    ) -> Option<Order> {
        let wish = self.wish(next, capacity, needs_no_load)?;
        let Wish { runner, runs_on, first, only_first, limit, permit } = wish;
        let cost = self.estimates.gpu_seconds(&runner);
        let picking = Picking { first, only_first, limit, cost, lowest_uncommitted };
        let offers = self.work.offers(&runner, picking);
        let scan = self.work.last_scan();
        (!offers.is_empty()).then_some(Order { runner, runs_on, offers, limit, permit, asked_at: now, scan })
    }

    /// Learns which jobs the claim of an order brought. Returns what each of them was charged.
    pub(crate) fn claimed(&mut self, order: &Order, claimed: &[Claimed], now: Instant) -> Vec<Charge> {
        let brought = |job: &Claimed| Brought {
            job: job.lease.job_id,
            offer: order.offers.iter().position(|offer| work::brings(offer, job)),
            client: job.client,
            user: job.user.clone(),
        };
        self.brought(order, claimed.iter().map(brought).collect(), now)
    }

    fn brought(&mut self, order: &Order, brought: Vec<Brought>, now: Instant) -> Vec<Charge> {
        let gpu_seconds = match order.runs_on {
            RunsOn::Gpu => self.estimates.gpu_seconds(&order.runner),
            RunsOn::Cloud => 0.0,
        };
        if order.runs_on == RunsOn::Gpu {
            for job in &brought {
                let only_user = || self.work.only_user(job.client, &order.runner);
                self.rotation.claimed(job.client, only_user, &order.runner, now);
            }
            self.neighbours.claimed(&order.runner);
        }
        self.work.claimed(order, &brought, gpu_seconds);
        let charge = |Brought { client, user, .. }: Brought| Charge { client, user, gpu_seconds };
        brought.into_iter().map(charge).collect()
    }

    fn wish(
        &mut self,
        next: Next<ClientId, Key>,
        capacity: Capacity,
        needs_no_load: impl Fn(&Key, RunsOn) -> bool,
    ) -> Option<Wish> {
        let last_in_cloud = self.last_in_cloud.clone();
        let cloud = self.work.waiting_for_cloud();
        // Cloud keys take turns in the order of their names. No turn needs a load, so each can be a single claim.
        let after_last = cloud.iter().find(|key| Some(**key) > last_in_cloud.as_ref());
        let cloud = after_last.or(cloud.first()).map(|key| Key::clone(key));
        // GPU and cloud jobs share the slots, so claims for them alternate. While the cloud is next, no GPU job is
        // held ahead.
        let cloud_first = self.cloud_next && cloud.is_some();
        let wish = |runner: Key, runs_on, may_hold| {
            let needs_no_load = needs_no_load(&runner, runs_on);
            self.wish_for(runner, runs_on, capacity, needs_no_load, may_hold)
        };
        let on_gpu = match next {
            Next::Stay(key) => wish(key, RunsOn::Gpu, !cloud_first),
            Next::Resident { client, key } => {
                wish(key, RunsOn::Gpu, !cloud_first).map(|wish| Wish { first: Some(client), ..wish })
            }
            Next::Switch { client, key } => {
                let only_first = !needs_no_load(&key, RunsOn::Gpu);
                wish(key, RunsOn::Gpu, false).map(|wish| Wish { first: Some(client), only_first, ..wish })
            }
            Next::WaitForIdle | Next::Rest => None,
        };
        let on_gpu = on_gpu.filter(|wish| self.work.has(&wish.runner));
        let in_cloud = cloud.and_then(|key| wish(key, RunsOn::Cloud, true));
        let wish = if cloud_first { in_cloud.or(on_gpu) } else { on_gpu.or(in_cloud) };
        if let Some(Wish { runner, runs_on, .. }) = &wish {
            self.cloud_next = *runs_on == RunsOn::Gpu;
            if *runs_on == RunsOn::Cloud {
                self.last_in_cloud = Some(Key::clone(runner));
            }
        }
        wish
    }

    /// A claim for this runner for all free slots. If `may_hold`, it may bring one job more, which is held until a slot
    /// is free.
    fn wish_for(
        &self,
        runner: Key,
        runs_on: RunsOn,
        capacity: Capacity,
        needs_no_load: bool,
        may_hold: bool,
    ) -> Option<Wish> {
        let Capacity { free_slots, holds_job } = capacity;
        // A job that its claim begins must start at once. So it must neither wait for a load nor for a held job
        // before it.
        if free_slots > 0 && needs_no_load && !holds_job {
            let (limit, permit) = (free_slots, Permit::Begun);
            return Some(Wish { runner, runs_on, first: None, only_first: false, limit, permit });
        }
        let is_quick = self.estimates.usual_run(&runner).is_some_and(|usual| usual < HOLD_AHEAD_OF);
        let limit = free_slots + usize::from(may_hold && is_quick && !holds_job);
        // Before a load the attempt must record that it loads.
        let permit = if needs_no_load { Permit::SendAhead } else { Permit::Ask };
        (limit > 0).then_some(Wish { runner, runs_on, first: None, only_first: false, limit, permit })
    }
}

#[cfg(test)]
mod tests;
