//! The floor: the one loop that decides what happens on this host. It is told what has happened, never waits for any one
//! thing, and alone starts attempts, loads and claims.
//!
//! What it decides from is kept in five parts, each of which changes by itself: [`standing`] is by what right we claim,
//! [`host`] is what we know of the host, [`Plan`] says what to claim next, [`ledger`] has the jobs that are ours, and
//! [`claims`] is the question to Postgres that is out.

mod claims;
mod host;
mod ledger;
mod standing;

use std::sync::Arc;

use foreman_runtime::background_error;
use foreman_store::{Claimed, ClientId, Holder, Lease, OwnLease, ulid_floor};
use metrics::counter;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::attempt::{self, Attempt, Context, Finished};
use super::fate::{Ending, HostTrouble, Past, reason};
use super::idle::IdleMeter;
use super::job::{Job, Left, Running};
use super::load::Load;
use super::metrics::{GPU_IDLE, MODEL_SWITCHES};
use super::record::leaving::Leaving;
use super::signal::Signal;
use crate::membership::liveness::Spell;
use crate::scheduling::backlog::LATE_COMMITS;
use crate::scheduling::key::{Key, RunsOn};
use crate::scheduling::plan::{Order, Plan, Room};
use crate::scheduling::rotation::Next;
use crate::worker::Worker;
use claims::{Claims, Learned, Reply};
use host::Host;
use ledger::Ledger;
use standing::Standing;

pub(crate) struct Floor {
    worker: Arc<Worker>,
    context: Arc<Context>,
    inbox: mpsc::UnboundedReceiver<Signal>,
    signals: mpsc::UnboundedSender<Signal>,
    /// For the watch of the host: it should look at once.
    doubt: Arc<Notify>,
    standing: Standing,
    host: Host,
    plan: Plan,
    ledger: Ledger,
    claims: Claims,
    attempts: JoinSet<Finished>,
    idle: IdleMeter,
}

impl Floor {
    pub(crate) fn new(
        worker: Arc<Worker>,
        context: Context,
        holder: watch::Receiver<Option<Holder>>,
        (signals, inbox): (mpsc::UnboundedSender<Signal>, mpsc::UnboundedReceiver<Signal>),
        doubt: Arc<Notify>,
    ) -> Self {
        Self {
            standing: Standing::new(worker.liveness.clone(), holder),
            host: Host::default(),
            plan: Plan::new(&worker.config.turns),
            ledger: Ledger::new(worker.config.host.slots),
            claims: Claims::new(worker.store.on_own_connection()),
            attempts: JoinSet::new(),
            idle: IdleMeter::default(),
            worker,
            context: Arc::new(context),
            inbox,
            signals,
            doubt,
        }
    }

    /// Works until the process stops and everything that was claimed is written.
    pub(crate) async fn run(mut self) {
        let shutdown = self.worker.shutdown.clone();
        let mut renewals = self.worker.liveness.renewals();
        loop {
            let now = Instant::now();
            self.decide(now);
            if self.is_over() {
                return;
            }
            let (ask_again, pause) = (self.claims.again_at(now), self.host.paused_until(now));
            tokio::select! {
                // Signals before attempts: what a load has told is heard before those end that waited for it.
                biased;
                () = shutdown.soft().cancelled(), if !self.standing.is_stopping() => self.standing.stop_softly(),
                () = shutdown.hard().cancelled(), if !self.standing.is_out_of_time() => {
                    self.standing.stop_hard();
                    self.ledger.stop_all();
                }
                Some(signal) = self.inbox.recv() => self.heard(signal, Instant::now()),
                Some(joined) = self.attempts.join_next_with_id() => self.joined(joined, Instant::now()),
                answer = self.claims.answer() => self.answered(answer, Instant::now()),
                Ok(()) = renewals.changed() => self.claims.doubt(),
                () = self.standing.holder_changed() => {}
                () = sleep_until(ask_again.unwrap_or(now)), if ask_again.is_some() => {}
                () = sleep_until(pause.unwrap_or(now)), if pause.is_some() => {}
            }
        }
    }

    fn is_over(&self) -> bool {
        let knows_its_leases = !self.claims.is_in_doubt() || self.standing.is_out_of_time();
        let has_nothing = self.ledger.is_empty() && !self.claims.is_asking();
        self.standing.is_stopping() && has_nothing && knows_its_leases
    }

    /// Does whatever can be done now.
    fn decide(&mut self, now: Instant) {
        let right = self.right(now);
        let (ledger, plan) = (&self.ledger, &self.plan);
        self.host.keep_load_if(|key| ledger.needs(key) || (right.is_some() && plan.goes_on_with(key)));
        // While a question is out and nothing is held, there is nothing to choose a key for.
        let next = if self.claims.is_asking() && self.ledger.holds_nothing() {
            Next::Rest
        } else {
            self.plan.next(self.ledger.held_for_gpu(), self.ledger.gpu_is_busy(), now)
        };
        self.serve_held(&next, right.is_some(), now);
        if self.claims.may_ask(now) {
            self.ask(next, right, now);
        }
        let waits = self.standing.holds_host() && self.plan.work_waits();
        let idle_seconds = self.idle.note(waits && self.ledger.runs_nothing(), now);
        counter!(GPU_IDLE.name).increment(idle_seconds);
    }

    /// Whether and as whom jobs may be claimed and begun now.
    fn right(&self, now: Instant) -> Option<(Holder, Spell)> {
        self.standing.right().filter(|_| self.host.takes_jobs(now))
    }

    /// Begins what is held and has a slot, and hands back what may not begin any more.
    fn serve_held(&mut self, next: &Next<ClientId, Key>, may_begin: bool, now: Instant) {
        // Another key's turn comes: jobs that are held for this one would only lengthen its wait.
        let gpu_goes_on = !matches!(next, Next::WaitForIdle | Next::Switch { .. });
        let keeps =
            |job: &Job| may_begin && job.spell.goes_on() && (gpu_goes_on || job.runs_on == RunsOn::Cloud);
        for job in self.ledger.let_go_but(keeps) {
            self.settle(job.not_begun());
        }
        while let Some(job) = self.ledger.take_next() {
            self.begin(job, now);
        }
    }

    /// Asks Postgres which leases are ours if that is in doubt, or else for jobs if there is room for them.
    fn ask(&mut self, next: Next<ClientId, Key>, right: Option<(Holder, Spell)>, now: Instant) {
        if self.claims.is_in_doubt() {
            if let Some(worker) = self.standing.worker() {
                self.claims.ask_for_own(worker, self.ledger.leases());
            }
            return;
        }
        let Some((holder, spell)) = right.filter(|_| !self.ledger.waits_for_postgres()) else { return };
        let room = Room { slots: self.ledger.slots_to_fill(), is_held: !self.ledger.holds_nothing() };
        let (host, gpu_is_busy) = (&self.host, self.ledger.gpu_is_busy());
        let needs_no_load = |key: &Key, runs_on| host.needs_no_load(key, runs_on, gpu_is_busy, now);
        let floor = ulid_floor(self.context.clock.now() - LATE_COMMITS);
        if let Some(order) = self.plan.order(next, room, needs_no_load, floor) {
            self.claims.ask_for_jobs(holder, spell, order);
        }
    }

    fn answered(&mut self, answer: Reply, now: Instant) {
        match self.claims.answered(answer, now) {
            Some(Learned::Claimed { order, spell, jobs }) => self.claimed(&order, &spell, jobs, now),
            Some(Learned::Unknown(leases)) => leases.into_iter().for_each(|own| self.hand_back_unknown(own)),
            None => {}
        }
    }

    fn claimed(&mut self, order: &Order, spell: &Spell, claimed: Vec<Claimed>, now: Instant) {
        self.plan.claimed(order, &claimed, now);
        // A job that has begun is `working`, which is not true of one whose model has gone meanwhile and must be loaded.
        let is_loaded = self.host.needs_no_load(&order.key, order.runs_on, self.ledger.gpu_is_busy(), now);
        let may_begin = self.right(now).is_some() && spell.goes_on() && is_loaded;
        for job in claimed {
            match Job::new(job, &order.key, order.runs_on, spell, self.context.limits.max_attempts) {
                // Whoever has the turn by now: these have begun.
                Ok(job) if job.begun && may_begin => self.begin(job, now),
                Ok(job) if job.begun => self.settle(job.not_begun()),
                Ok(job) => self.ledger.hold(job),
                Err(left) => self.settle(*left),
            }
        }
    }

    /// A lease that a claim brought whose answer was lost.
    fn hand_back_unknown(&mut self, own: OwnLease) {
        let OwnLease { lease, phase, model_label } = own;
        tracing::warn!(job.id = %lease.job_id, phase = phase.as_str(), "a lease that nobody here knows of is handed back");
        let why = reason("claim_lost", "the worker did not hear of its own claim");
        self.settle(Left { lease, past: Past::default(), ending: Ending::GivenBack(why), model_label });
    }

    fn begin(&mut self, job: Job, now: Instant) {
        let load = self.load_for(&job, now);
        let (abort, aborted) = watch::channel(None);
        let attempt = Attempt {
            lease: Lease { job_id: job.lease.job_id, no: job.lease.no },
            model: job.key.model().clone(),
            model_label: job.model_label.clone(),
            route: job.route,
            eligible_at: job.eligible_at,
            begun: job.begun,
            load,
            abort: aborted,
            spell: job.spell,
        };
        let context = Arc::clone(&self.context);
        let task = self.attempts.spawn(async move { attempt::run(&context, attempt, job.body).await });
        let running = Running {
            lease: job.lease,
            key: job.key,
            runs_on: job.runs_on,
            past: job.past,
            model_label: job.model_label,
            abort,
        };
        self.ledger.begun(task.id(), running);
    }

    /// The load that a job must wait for, if its model is not there.
    fn load_for(&mut self, job: &Job, now: Instant) -> Option<Load> {
        if self.host.needs_no_load(&job.key, job.runs_on, self.ledger.gpu_is_busy(), now) {
            self.plan.is_loaded(&job.key, now);
            return None;
        }
        let (context, signals) = (&self.context, &self.signals);
        let begin = || {
            let (key, limit) = (Key::clone(&job.key), context.limits.load_timeout);
            Load::new(context.ollama.clone(), key, job.route, limit, signals.clone())
        };
        Some(self.host.load(&job.key, begin))
    }

    fn heard(&mut self, signal: Signal, now: Instant) {
        match signal {
            Signal::Scanned(groups) => self.plan.scanned(groups),
            Signal::Settled(lease) => self.ledger.settled(lease),
            Signal::CancelAsked(leases) => {
                for job in self.ledger.cancel(&leases) {
                    self.settle(job.leave(Ending::Cancelled));
                }
            }
            Signal::Loaded { key, took } => {
                self.plan.loaded(&key, took, now);
                if self.host.loaded(key, now) {
                    counter!(MODEL_SWITCHES.name).increment(1);
                }
            }
            Signal::LoadFailed { key } => {
                self.plan.load_failed(&key, now);
                self.host.load_failed(&key);
            }
            Signal::HostUp(models) => {
                self.plan.published(models);
                self.host.came_up();
            }
            Signal::HostAway => self.host.went_away(),
            Signal::NothingResident => self.host.has_nothing_resident(self.ledger.gpu_is_busy()),
        }
    }

    fn joined(&mut self, joined: Result<(Id, Finished), JoinError>, now: Instant) {
        let (id, ended) = match joined {
            Ok(joined) => joined,
            Err(error) => {
                let id = error.id();
                background_error!("attempt", error, "an attempt panicked");
                let why =
                    reason("internal_error", "the worker failed while it ran the job; its log says why");
                (id, Ending::again(why).into())
            }
        };
        // Every attempt is entered there when it is begun.
        if let Some(running) = self.ledger.ended(id) {
            self.ended(running, ended, now);
        }
    }

    fn ended(&mut self, running: Running, ended: Finished, now: Instant) {
        let Running { lease, key, runs_on, past, model_label, .. } = running;
        let Finished { ending, ran } = ended;
        if runs_on == RunsOn::Gpu {
            self.host.used(&key, now);
        }
        let past = Past { vanished: self.host.learn(lease.job_id, &ending, now), ..past };
        if let (Ending::Done(_), Some(ran)) = (&ending, ran) {
            self.plan.ran(&key, ran);
        }
        if let Some(trouble) = ending.host_trouble() {
            if trouble == HostTrouble::ModelGone {
                self.plan.missed(&key);
            }
            self.doubt.notify_one();
        }
        self.settle(Left { lease, past, ending, model_label });
    }

    /// Hands a lease to the recorder with the job's fate. It counts as ours until that is written.
    fn settle(&mut self, left: Left) {
        let Left { lease, past, ending, model_label } = left;
        if let Some(exit) = ending.fate(past) {
            self.ledger.left(lease.no, exit.bytes());
            self.context.recorder.settle(Leaving { lease, exit, model_label });
        }
    }
}
