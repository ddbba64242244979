//! The floor: the one loop that runs this host. It tells the [`Decider`] each event, and carries out the decider's
//! actions. It must never wait for one thing alone, because every other event would wait as well.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use foreman_runtime::background_error;
use foreman_store::{Holder, HostPlan, JobId, LeaseNo, Store, ulid_floor};
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, OptionFuture};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::{Id, JoinError, JoinSet, yield_now};
use tokio::time::{Instant, sleep_until};
use tracing::Instrument as _;

use super::attempt::{self, Attempt, Context, Finished};
use super::decider::claims::Reply;
use super::decider::{Action, Decider, Event, Loading};
use super::fate::{Ending, reason};
use super::job::Body;
use super::load::Load;
use super::questions;
use super::signal::Signal;
use super::unload;
use crate::scheduling::backlog::LATE_COMMITS;
use crate::scheduling::key::Key;
use crate::scheduling::plan::forecast::Start;
use crate::worker::Worker;

/// How often to tell others of the plan, at the most. To put it together costs as much as a decision.
const PLAN_EVERY: Duration = Duration::from_millis(500);

/// Asks the floor from where the plan may run ahead for a forecast.
pub(crate) type ForecastRequest = oneshot::Sender<Option<Start>>;

pub(crate) struct Floor {
    worker: Arc<Worker>,
    context: Arc<Context>,
    /// A connection of its own, for the decider's questions to Postgres.
    store: Store,
    decider: Decider,
    holder: watch::Receiver<Option<Holder>>,
    inbox: mpsc::UnboundedReceiver<Signal>,
    signals: mpsc::UnboundedSender<Signal>,
    looks: Looks,
    /// What others are told of the plan.
    plans: watch::Sender<HostPlan>,
    plan_again_at: Instant,
    /// The forecaster's requests.
    forecasts: mpsc::Receiver<ForecastRequest>,
    question: OptionFuture<BoxFuture<'static, Reply>>,
    /// The unload under way.
    unload: OptionFuture<BoxFuture<'static, Signal>>,
    attempts: JoinSet<Finished>,
    /// The lease of each attempt, and its job, by the id of the attempt's task.
    leases: HashMap<Id, (LeaseNo, JobId)>,
    /// The load under way. Dropping it closes its connection to Ollama.
    load: Option<Load>,
}

/// What the floor may ask for before its time.
pub(crate) struct Looks {
    /// Of the host watch, at Ollama.
    pub(crate) at_host: Arc<Notify>,
    /// Of the scan.
    pub(crate) for_jobs: Arc<Notify>,
}

impl Floor {
    pub(crate) fn new(
        worker: Arc<Worker>,
        context: Context,
        holder: watch::Receiver<Option<Holder>>,
        (signals, inbox): (mpsc::UnboundedSender<Signal>, mpsc::UnboundedReceiver<Signal>),
        looks: Looks,
        plans: watch::Sender<HostPlan>,
        forecasts: mpsc::Receiver<ForecastRequest>,
    ) -> Self {
        let (config, slots) = (&worker.config, worker.config.host.slots);
        Self {
            decider: Decider::new(slots, &config.turns, config.limits.max_attempts, Instant::now()),
            store: worker.store.on_own_connection(),
            worker,
            context: Arc::new(context),
            holder,
            inbox,
            signals,
            looks,
            plans,
            plan_again_at: Instant::now(),
            forecasts,
            question: None.into(),
            unload: None.into(),
            attempts: JoinSet::new(),
            leases: HashMap::new(),
            load: None,
        }
    }

    /// Runs until the process stops and Postgres has the outcome of every claimed job.
    pub(crate) async fn run(mut self) {
        let mut renewals = self.worker.liveness.renewals();
        self.tell_authority();
        loop {
            let now = Instant::now();
            self.decide(now).await;
            if self.decider.is_over() {
                return;
            }
            let event = self.next_event(&mut renewals, now).await;
            self.tell_authority();
            if let Some(event) = event {
                self.decider.learn(event, Instant::now());
            }
        }
    }

    /// Decides, and carries the decisions out. Requests go out to Ollama before anything is said to Postgres: each statement
    /// wakes another process, and the request would wait for a processor with it.
    async fn decide(&mut self, now: Instant) {
        let begins = self.decider.begins(now);
        if !begins.is_empty() {
            begins.into_iter().for_each(|action| self.carry_out(action));
            // The thread first does what is ready, and so sends the requests. A task of its own yields: the next event would
            // end a yield of the floor itself.
            _ = tokio::spawn(yield_now()).await;
        }
        let clock = &self.context.clock;
        for action in self.decider.decide(|| ulid_floor(clock.now() - LATE_COMMITS), now) {
            self.carry_out(action);
        }
        if !self.decider.wants_load() {
            self.load = None;
        }
        if now >= self.plan_again_at {
            self.plan_again_at = now + PLAN_EVERY;
            let plan = self.decider.publication(now);
            self.plans.send_if_modified(|last| std::mem::replace(last, plan) != *last);
        }
    }

    /// Tells the decider as whom this worker may act now.
    fn tell_authority(&mut self) {
        self.decider.learn_authority(self.holder.borrow().clone(), self.worker.liveness.spell());
    }

    /// Waits for the next event. Returns `None` when nothing happened but it is time to decide again.
    async fn next_event(&mut self, renewals: &mut watch::Receiver<u64>, now: Instant) -> Option<Event> {
        let (shutdown, decider) = (&self.worker.shutdown, &self.decider);
        let again_at = decider.decides_again_at(now);
        tokio::select! {
            // Signals come before attempts, so that the decider hears that a load ended before the attempts that
            // waited for the load end.
            biased;
            () = shutdown.soft().cancelled(), if !decider.is_stopping() => Some(Event::SoftStop),
            () = shutdown.hard().cancelled(), if !decider.is_out_of_time() => Some(Event::HardStop),
            Some(signal) = self.inbox.recv() => Some(Event::Signal(signal)),
            Some(joined) = self.attempts.join_next_with_id() => self.ended(joined),
            Some(reply) = &mut self.question => {
                self.question = None.into();
                Some(Event::Replied(reply))
            }
            Some(signal) = &mut self.unload => {
                self.unload = None.into();
                Some(Event::Signal(signal))
            }
            Some(request) = self.forecasts.recv() => {
                // Sending fails only when the forecaster has ended.
                _ = request.send(decider.forecast_start(now));
                None
            }
            Ok(()) = renewals.changed() => Some(Event::Renewed),
            Ok(()) = self.holder.changed() => None,
            () = sleep_until(again_at.unwrap_or(now)), if again_at.is_some() => None,
        }
    }

    fn ended(&mut self, joined: Result<(Id, Finished), JoinError>) -> Option<Event> {
        let (task, finished) = joined.unwrap_or_else(|error| {
            let task = error.id();
            background_error!("attempt", error, "an attempt panicked");
            let why = reason("internal_error", "the worker failed while it ran the job; its log says why");
            (task, Ending::again(why).into())
        });
        // `begin` enters every attempt into `leases`.
        let (lease, job) = self.leases.remove(&task)?;
        if matches!(finished.ending, Ending::Stale) {
            self.worker.live.dropped(job);
        }
        // Even an attempt that panicked has given out what it gave out.
        let given_out = self.worker.live.has_begun_for_a_caller(job);
        Some(Event::Ended(lease, Finished { given_out, ..finished }))
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Ask(question) => {
                self.question = Some(questions::ask(self.store.clone(), question).boxed()).into();
            }
            Action::Begin { attempt, body, loading } => self.begin(attempt, body, loading),
            Action::Settle(leaving) => {
                self.worker.live.settled(leaving.lease.job_id, &leaving.exit);
                self.context.recorder.settle(leaving);
            }
            Action::Unload(unload) => {
                let (store, ollama) = (self.worker.store.clone(), self.context.ollama.clone());
                let host = self.worker.config.host.id.as_str().to_owned();
                self.unload = Some(unload::carry_out(store, ollama, host, unload).boxed()).into();
            }
            Action::LookAtHost => self.looks.at_host.notify_one(),
            Action::LookForJobs => self.looks.for_jobs.notify_one(),
        }
    }

    fn begin(&mut self, attempt: Attempt, body: Body, loading: Loading) {
        let load = match loading {
            Loading::NotNeeded => None,
            Loading::UnderWay => self.load.clone(),
            Loading::New { unload } => {
                let (ollama, limit) = (self.context.ollama.clone(), self.context.limits.load_timeout);
                let key = Key::clone(&attempt.runner);
                self.load = Some(Load::new(ollama, key, attempt.route, limit, unload, self.signals.clone()));
                self.load.clone()
            }
        };
        let (context, lease) = (Arc::clone(&self.context), attempt.lease.no);
        // Every line that the attempt logs names its job by this span. The span is as grave as an error, so that every
        // FOREMAN_LOG keeps it.
        let (job, number) = (attempt.lease.job_id, attempt.number);
        let span = tracing::error_span!("attempt", job.id = %job, attempt = number);
        let live = self.worker.live.begin(job, number, attempt.api);
        let run = async move { attempt::run(&context, attempt, body, load, live).await };
        let task = self.attempts.spawn(run.instrument(span));
        self.leases.insert(task.id(), (lease, job));
    }
}
