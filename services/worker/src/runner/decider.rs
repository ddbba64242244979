//! Decides what happens on this host: which jobs to claim, begin, stop and hand back. It learns one event at a time,
//! and returns actions for the floor to carry out. Pure: it waits for nothing and talks to nobody, so that a test can
//! run it against a scripted world.
//!
//! Its knowledge has five parts. [`authority`] knows whether this worker may claim. [`host`] knows how Ollama is.
//! [`Plan`] knows what to claim next. [`ledger`] knows which jobs are ours. [`claims`] knows whether Postgres may be
//! asked now.
//!
//! [`brought`] decides what becomes of the jobs that claims bring.

mod authority;
mod brought;
pub(super) mod claims;
mod host;
mod ledger;
mod unloads;

use std::time::Duration;

use chrono::{DateTime, Utc};
use foreman_store::{ClientId, Holder, HostPlan, JobId, LeaseNo, Used};
use metrics::counter;
use tokio::time::Instant;

use super::attempt::{Attempt, Finished};
use super::fate::{Ending, HostTrouble, Past};
use super::idle::IdleMeter;
use super::job::{Body, Job, JobWithEnding, Running};
use super::metrics::{GPU_IDLE, LOADS, MODEL_SWITCHES};
use super::record::leaving::Leaving;
use super::signal::{Signal, Unload};
use crate::config;
use crate::membership::liveness::Spell;
use crate::scheduling::first_come::FirstCome;
use crate::scheduling::gpu_clock::GpuClock;
use crate::scheduling::key::{Key, RunsOn};
use crate::scheduling::plan::forecast::Start;
use crate::scheduling::plan::{Capacity, Plan};
use crate::scheduling::rotation::Next;
use authority::Authority;
use claims::{Claims, Question, Reply};
use host::Host;
use ledger::Ledger;

pub(super) use host::Loading;

#[derive(Debug)]
pub(super) struct Decider {
    authority: Authority,
    host: Host,
    plan: Plan,
    ledger: Ledger,
    claims: Claims,
    gpu: GpuClock,
    first_come: FirstCome<(DateTime<Utc>, JobId), Key>,
    idle: IdleMeter,
    /// Whether jobs that this host can run were known at the last decision.
    knew_work: bool,
    /// For jobs that do not name a number of attempts.
    max_attempts: i16,
    /// Which key has the GPU next, between the two parts of a decision.
    next: Next<ClientId, Key>,
    /// Decided, but not returned to the floor yet.
    actions: Vec<Action>,
}

/// One thing that has happened.
#[derive(Debug)]
pub(super) enum Event {
    /// The process stops. From now on no job begins.
    SoftStop,
    /// The grace is nearly over. From now on no attempt may run.
    HardStop,
    Signal(Signal),
    /// Postgres has answered the last question, or the question has failed.
    Replied(Reply),
    /// The attempt under this lease has ended.
    Ended(LeaseNo, Finished),
    /// Postgres has acknowledged a renewal.
    Renewed,
}

/// One thing for the floor to do.
#[derive(Debug)]
pub(super) enum Action {
    Ask(Question),
    /// Start this attempt. It waits for a load first if it needs one.
    Begin {
        attempt: Attempt,
        body: Body,
        loading: Loading,
    },
    /// Have the recorder write this exit.
    Settle(Leaving),
    /// Have Ollama unload a model, and tell how that went. There is never more than one of these under way.
    Unload(Unload),
    /// Have the host watch look at Ollama now, because a request did not reach it or did not find its model.
    LookAtHost,
    /// Have the scan look for ready jobs now, because none of those that it found is left.
    LookForJobs,
}

impl Decider {
    pub(super) fn new(slots: usize, turns: &config::Turns, max_attempts: i16, now: Instant) -> Self {
        Self {
            authority: Authority::default(),
            host: Host::new(turns.models_together),
            plan: Plan::new(turns, slots),
            ledger: Ledger::new(slots),
            claims: Claims::new(now),
            gpu: GpuClock::new(now),
            first_come: FirstCome::default(),
            idle: IdleMeter::default(),
            knew_work: false,
            max_attempts,
            next: Next::Rest,
            actions: Vec::new(),
        }
    }

    /// Learns as whom this worker may act from now on. The floor tells it before each event and before the first decision.
    pub(super) fn learn_authority(&mut self, holder: Option<Holder>, spell: Option<Spell>) {
        self.authority.update(holder, spell);
    }

    pub(super) fn learn(&mut self, event: Event, now: Instant) {
        match event {
            Event::SoftStop => self.authority.stop_softly(),
            Event::HardStop => {
                self.authority.stop_hard();
                self.ledger.stop_all();
            }
            Event::Signal(signal) => self.heard(signal, now),
            Event::Replied(Reply::Claimed { order, spell, jobs }) => {
                self.claims.answered();
                self.claimed(&order, &spell, jobs, now);
            }
            Event::Replied(Reply::Said { host, word, number }) => {
                self.claims.answered();
                self.plan.answered(word, &host, number);
            }
            Event::Replied(Reply::OwnLeases { known, leases }) => {
                self.claims.own_leases_are_known();
                // No claim was under way meanwhile, so a lease that was unknown at the question still is.
                let unknown = leases.into_iter().filter(|own| !known.contains(&own.lease.no));
                unknown.for_each(|own| self.hand_back_unknown(own));
            }
            Event::Replied(Reply::Failed { may_have_claimed }) => self.claims.failed(may_have_claimed, now),
            Event::Ended(lease, finished) => {
                // `begin` enters every attempt into the ledger.
                if let Some(running) = self.ledger.ended(lease) {
                    self.ended(running, finished, now);
                }
            }
            Event::Renewed => self.claims.doubt(),
        }
    }

    /// Decides which jobs begin now. The floor carries that out before everything else: until then Ollama may be idle.
    pub(super) fn begins(&mut self, now: Instant) -> Vec<Action> {
        let may_begin = self.right(now).is_some();
        self.unload(now);
        let (ledger, plan) = (&self.ledger, &self.plan);
        let is_wanted = |key: &Key| ledger.needs(key) || (may_begin && plan.goes_on_with(key));
        if let Some((key, began)) = self.host.keep_load_if(is_wanted) {
            self.plan.charge_load(&key, now.saturating_duration_since(began));
        }
        self.plan.are_resident(self.host.residents(|key| ledger.runs(key), now));
        let mut next = self.next(now);
        if self.serve_held(&next, may_begin, now) {
            // What was handed back no longer asks for the GPU.
            next = self.next(now);
        }
        self.next = next;
        self.actions.extract_if(.., |action| matches!(action, Action::Begin { .. })).collect()
    }

    /// Decides everything else, after [`begins`](Self::begins) and before the next event. `lowest_uncommitted` tells the
    /// lowest id that a job not yet committed may have.
    pub(super) fn decide(&mut self, lowest_uncommitted: impl FnOnce() -> JobId, now: Instant) -> Vec<Action> {
        let next = std::mem::replace(&mut self.next, Next::Rest);
        if self.claims.may_ask(now)
            && let Some(question) = self.question(next, lowest_uncommitted, now)
        {
            self.claims.ask();
            self.actions.push(Action::Ask(question));
        }
        let work_waits = self.plan.work_waits();
        if std::mem::replace(&mut self.knew_work, work_waits) && !work_waits {
            self.actions.push(Action::LookForJobs);
        }
        let is_idle = self.ledger.is_idle() && self.authority.serves_host() && work_waits;
        let idle_seconds = self.idle.note(is_idle, now);
        counter!(GPU_IDLE.name).increment(idle_seconds);
        std::mem::take(&mut self.actions)
    }

    /// What others are told of the plan.
    pub(super) fn publication(&self, now: Instant) -> HostPlan {
        let mut plan = self.plan.publication(self.ledger.held_for_gpu(), now);
        (plan.turns.running, plan.turns.slots) = self.ledger.occupancy();
        if self.authority.is_drained() {
            // Nothing is claimed, and nobody can tell for how long.
            plan.longest_wait_ms = None;
            plan.turns.is_drained = true;
            plan.turns.next.clear();
        }
        plan
    }

    /// From where the plan runs ahead for a forecast. `None` while no job waits, or none may be claimed.
    pub(super) fn forecast_start(&self, now: Instant) -> Option<Start> {
        self.right(now).filter(|_| self.plan.has_ready_jobs() || !self.ledger.holds_nothing())?;
        Some(Start {
            plan: self.plan.clone(),
            now,
            slots: self.ledger.occupancy().1,
            gpu: self.gpu.clone(),
            residency: self.host.residency().clone(),
            loading: self.host.loading(),
            running: self.ledger.running(),
            held: self.ledger.held(),
        })
    }

    /// When to decide again if no event comes before.
    pub(super) fn decides_again_at(&self, now: Instant) -> Option<Instant> {
        [self.claims.again_at(now), self.host.paused_until(now)].into_iter().flatten().min()
    }

    /// Whether the load under way is still wanted.
    pub(super) fn wants_load(&self) -> bool {
        self.host.is_loading()
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.authority.is_stopping()
    }

    pub(super) fn is_out_of_time(&self) -> bool {
        self.authority.is_out_of_time()
    }

    /// Whether the process stops and no job, question or doubt is left.
    pub(super) fn is_over(&self) -> bool {
        let knows_its_leases = !self.claims.is_in_doubt() || self.authority.is_out_of_time();
        let has_nothing = self.ledger.is_empty() && !self.claims.is_asking();
        self.authority.is_stopping() && has_nothing && knows_its_leases
    }

    /// As whom this worker may claim and begin jobs now. `None` if it may not.
    fn right(&self, now: Instant) -> Option<(&Holder, &Spell)> {
        self.authority.right().filter(|_| self.host.takes_jobs(now))
    }

    /// Which key has the GPU next.
    fn next(&mut self, now: Instant) -> Next<ClientId, Key> {
        // No key is needed while a question is under way and no job is held.
        if self.claims.is_asking() && self.ledger.holds_nothing() {
            return Next::Rest;
        }
        let next = self.plan.next(self.ledger.held_for_gpu(), self.ledger.gpu_is_busy(), now);
        match &next {
            Next::Stay(key) | Next::Resident { key, .. } | Next::Switch { key, .. }
                if !self.may_load() && !self.plan.is_resident(key) && !self.host.loads(key) =>
            {
                Next::WaitForIdle
            }
            _ => next,
        }
    }

    /// Nothing may be loaded beside requests, or beside an unload.
    fn may_load(&self) -> bool {
        !self.ledger.gpu_is_busy() && !self.host.unloads.is_under_way()
    }

    /// Begins an unload that an operator wants. Nothing of its model begins from the moment it was asked for. A claim
    /// under way may still bring jobs that have begun, so wait for its answer.
    fn unload(&mut self, now: Instant) {
        self.plan.are_unloading(self.host.unloads.models(now).cloned().collect());
        let ledger = &self.ledger;
        if self.authority.right_to_host().is_none() || self.claims.is_asking() || ledger.waits_for_load() {
            return;
        }
        if let Some(unload) = self.host.begin_unload(|model| ledger.runs_model(model), now) {
            self.plan.unloaded(&unload.model, now);
            self.actions.push(Action::Unload(unload));
        }
    }

    /// Begins held jobs as far as there are free slots, and hands back those that may not begin any more. Returns whether it
    /// handed any back.
    fn serve_held(&mut self, next: &Next<ClientId, Key>, may_begin: bool, now: Instant) -> bool {
        // Before another key's turn, GPU jobs held for this key are handed back: they would delay that turn. So are those
        // that would need a load beside running requests or an unload, and those whose model is to be unloaded.
        let gpu_goes_on = !matches!(next, Next::WaitForIdle | Next::Switch { .. });
        let (plan, host, may_load) = (&self.plan, &self.host, self.may_load());
        let is_there = |runner: &Key| plan.is_resident(runner) || host.loads(runner);
        let may_run = |runner: &Key| !plan.unloads(runner) && (may_load || is_there(runner));
        let keeps = |job: &Job| {
            let has_turn = job.runs_on == RunsOn::Cloud || (gpu_goes_on && may_run(&job.runner));
            may_begin && job.spell.goes_on() && has_turn
        };
        let released = self.ledger.release_except(keeps);
        let has_released = !released.is_empty();
        for job in released {
            self.settle(job.not_begun());
        }
        while let Some(job) = self.ledger.take_next() {
            self.begin(job, now);
        }
        has_released
    }

    /// The next question to Postgres: which leases are ours if that is in doubt, or otherwise for jobs.
    fn question(
        &mut self,
        next: Next<ClientId, Key>,
        lowest_uncommitted: impl FnOnce() -> JobId,
        now: Instant,
    ) -> Option<Question> {
        if self.claims.is_in_doubt() {
            let (worker, known) = (self.authority.worker()?, self.ledger.leases());
            return Some(Question::OwnLeases { worker, known });
        }
        let (holder, spell) = self.right(now).filter(|_| !self.ledger.waits_for_postgres())?;
        let (holder, spell) = (holder.clone(), spell.clone());
        let capacity =
            Capacity { free_slots: self.ledger.slots_to_fill(), holds_job: !self.ledger.holds_nothing() };
        let (host, ledger) = (&self.host, &self.ledger);
        let needs_no_load = |key: &Key, runs_on| host.needs_no_load(key, runs_on, ledger.runs(key), now);
        if let Some(word) = self.plan.word(&next, needs_no_load) {
            return Some(Question::Say { host: holder.host, word });
        }
        let order = self.plan.order(next, capacity, needs_no_load, lowest_uncommitted(), now)?;
        Some(Question::Jobs { holder, spell, order })
    }

    fn needs_no_load(&self, key: &Key, runs_on: RunsOn, now: Instant) -> bool {
        self.host.needs_no_load(key, runs_on, self.ledger.runs(key), now)
    }

    fn heard(&mut self, signal: Signal, now: Instant) {
        match signal {
            Signal::Scanned(groups) => self.plan.scanned(groups, now),
            Signal::Remembered(plan) => self.plan.remember(&plan),
            Signal::Agreed(terms) => self.plan.agreed(terms),
            Signal::Neighbours(hosts, intents) => self.plan.looked_around(hosts, intents),
            Signal::Drained(is_drained) => self.authority.drain(is_drained),
            Signal::UnloadsAsked(asked) => self.host.unloads.told(asked),
            Signal::Answered(lease) => self.ledger.answered(lease, &mut self.gpu, now),
            Signal::Settled(lease) => self.ledger.settled(lease),
            Signal::CancelAsked(leases) => {
                for job in self.ledger.cancel(&leases) {
                    self.settle(job.with_ending(Ending::Cancelled));
                }
            }
            Signal::LoadBegins { key } => {
                self.host.load_begins(&key, now);
                self.ledger.load_begins(&key, now);
            }
            Signal::Loaded { key, took, context, listed } => {
                // A load that was given up is charged already, even if its end came in the same moment.
                if self.host.loads(&key) {
                    self.plan.charge_load(&key, took);
                }
                self.plan.loaded(&key, took, now);
                if let Some(length) = context {
                    self.plan.has_context(&key, length);
                }
                self.ledger.loaded(&mut self.gpu, now);
                counter!(LOADS.name).increment(1);
                if self.host.loaded(key, &listed, now) {
                    counter!(MODEL_SWITCHES.name).increment(1);
                }
            }
            Signal::LoadFailed { key } => {
                if let Some(began) = self.host.load_failed(&key) {
                    self.plan.charge_load(&key, now.saturating_duration_since(began));
                }
                self.plan.load_failed(&key, now);
            }
            Signal::Unloaded => self.host.unloads.ended(),
            Signal::UnloadFailed => {
                self.host.unloads.failed(now);
                self.actions.push(Action::LookAtHost);
            }
            Signal::HostUp(models) => {
                self.plan.published(models);
                self.host.came_up();
            }
            Signal::HostAway => {
                self.plan.doubt_contexts();
                self.host.went_away();
            }
            Signal::NothingResident => {
                if self.host.has_nothing_resident(self.ledger.gpu_is_busy()) {
                    self.plan.doubt_contexts();
                }
            }
        }
    }

    fn ended(&mut self, mut running: Running, finished: Finished, now: Instant) {
        let (loads, loading) = (running.caused_load().into(), running.load_time(now));
        if running.load.is_some() && running.waits_for_load() {
            self.ledger.load_goes_on(&running.runner, now);
        }
        let gpu_seconds = running.answered(&mut self.gpu, now);
        let Running { lease, charge, runner, runs_on, on_gpu_since, past, model_label, .. } = running;
        let Finished { ending, ran, given_out } = finished;
        if runs_on == RunsOn::Gpu {
            self.host.used(&runner, now);
        }
        // Read before the ending is learned: if Ollama is away, the lengths are in doubt from then on.
        let context = self.plan.context(&runner);
        let past = Past { vanished: self.host.learn(lease.job_id, &ending, now), given_out, ..past };
        if let (Ending::Done(_), Some(ran)) = (&ending, ran) {
            self.plan.ran(&runner, ran, gpu_seconds);
        }
        if let Some(trouble) = ending.host_trouble() {
            if trouble == HostTrouble::ModelGone {
                self.plan.missed(&runner);
            }
            self.actions.push(Action::LookAtHost);
        }
        let gpu = loading + Duration::try_from_secs_f64(gpu_seconds).unwrap_or_default();
        let used = Used { gpu, loads, context: on_gpu_since.and(context) };
        let charge = Some(charge);
        self.settle(JobWithEnding { lease, past, ending, ran: gpu_seconds, used, model_label, charge });
    }

    /// Has the job's fate written. The lease counts as ours until Postgres has the fate.
    fn settle(&mut self, job: JobWithEnding) {
        let JobWithEnding { lease, past, ending, ran, used, model_label, charge } = job;
        if let Some(charge) = charge {
            self.plan.ended(&charge, ran);
        }
        if let Some(exit) = ending.fate(past) {
            self.ledger.settling(lease.no, exit.bytes());
            self.actions.push(Action::Settle(Leaving { lease, exit, used, model_label }));
        }
    }
}

#[cfg(test)]
mod tests;
