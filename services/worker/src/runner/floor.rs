//! The floor: all that is claimed, loaded and run on this host, and the one loop that decides what happens next. It is
//! told what has happened, never waits for any one thing, and alone starts attempts, loads and claims.

mod claiming;
mod working;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use foreman_runtime::stalls;
use foreman_store::{ClientId, Holder, LeaseNo, Store};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use metrics::counter;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::attempt::{Desk, Ended};
use super::drain::{Drain, Next};
use super::fate::{Abort, Ending};
use super::idle::IdleMeter;
use super::job::{Job, Lane, Left, Running};
use super::load::{Key, Load};
use super::metrics::GPU_IDLE;
use super::pace::Pace;
use super::pause::Pause;
use super::presence::Presence;
use super::ready::Ready;
use super::record::Leaving;
use super::residency::Residency;
use super::signal::Signal;
use super::turns::Turns;
use super::vanished::Vanished;
use crate::liveness::Spell;
use crate::worker::Worker;
use claiming::{Answer, Waiting};

pub(crate) struct Floor {
    worker: Arc<Worker>,
    /// For claims.
    store: Store,
    desk: Arc<Desk>,
    command: watch::Receiver<Option<Holder>>,
    inbox: mpsc::UnboundedReceiver<Signal>,
    signals: mpsc::UnboundedSender<Signal>,
    doubt: Arc<Notify>,

    // Where work is, and whose turn it is.
    ready: Ready<Key>,
    presence: Presence,
    /// The keys that have work, sorted by what they need; nothing when that has changed.
    waiting: Option<Waiting>,
    drain: Drain<ClientId, Key>,
    turns: Turns,
    pace: Pace<Key>,

    // The host.
    host_up: bool,
    residency: Residency<Key>,
    load: Option<Load>,
    loaded_last: Option<Key>,
    idle: IdleMeter,
    vanished: Vanished,
    pause: Pause,

    // The jobs that are ours: claimed and not begun, running, and ended but not written.
    held: VecDeque<Job>,
    running: HashMap<Id, Running>,
    attempts: JoinSet<Ended>,
    /// With the bytes of each.
    unsettled: HashMap<LeaseNo, usize>,

    // The one question at a time that Postgres is asked: two claims, or a claim and a look at our own leases, would
    // each make the other's answer stale.
    asking: Option<BoxFuture<'static, Answer>>,
    ask_again_at: Instant,
    ask_delay: Duration,
    look_at_own: bool,
    cloud_next: bool,
    last_in_cloud: Option<Key>,

    stopping: bool,
    out_of_time: bool,
}

impl Floor {
    pub(crate) fn new(
        worker: Arc<Worker>,
        desk: Desk,
        command: watch::Receiver<Option<Holder>>,
        (signals, inbox): (mpsc::UnboundedSender<Signal>, mpsc::UnboundedReceiver<Signal>),
        doubt: Arc<Notify>,
    ) -> Self {
        let turns = &worker.config.turns;
        Self {
            drain: Drain::new(turns.load_share, turns.max_model_wait),
            desk: Arc::new(desk),
            store: worker.store.on_own_connection(),
            worker,
            command,
            inbox,
            signals,
            doubt,
            ready: Ready::default(),
            presence: Presence::default(),
            waiting: None,
            turns: Turns::default(),
            pace: Pace::default(),
            host_up: false,
            residency: Residency::default(),
            load: None,
            loaded_last: None,
            idle: IdleMeter::default(),
            vanished: Vanished::default(),
            pause: Pause::default(),
            held: VecDeque::new(),
            running: HashMap::new(),
            attempts: JoinSet::new(),
            unsettled: HashMap::new(),
            asking: None,
            ask_again_at: Instant::now(),
            ask_delay: claiming::FIRST_DELAY,
            look_at_own: false,
            cloud_next: false,
            last_in_cloud: None,
            stopping: false,
            out_of_time: false,
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
            let pause = self.pause.until(now);
            tokio::select! {
                // Signals before attempts: what a load has told is heard before those end that waited for it.
                biased;
                () = shutdown.soft().cancelled(), if !self.stopping => self.stopping = true,
                () = shutdown.hard().cancelled(), if !self.out_of_time => {
                    self.out_of_time = true;
                    self.running.values().for_each(|running| running.abort(Abort::Stopping));
                }
                Some(signal) = self.inbox.recv() => self.heard(signal, Instant::now()),
                Some(joined) = self.attempts.join_next_with_id() => self.joined(joined, Instant::now()),
                answer = answer(&mut self.asking) => self.answered(answer, Instant::now()),
                Ok(()) = renewals.changed() => self.look_at_own = true,
                Ok(()) = self.command.changed() => {}
                () = sleep_until(self.ask_again_at), if now < self.ask_again_at => {}
                () = sleep_until(pause.unwrap_or(now)), if pause.is_some() => {}
            }
        }
    }

    /// Does whatever can be done now.
    fn decide(&mut self, now: Instant) {
        self.drop_unwanted_load();
        // While a question is out and nothing is held, there is nothing to choose a key for.
        let next =
            if self.asking.is_some() && self.held.is_empty() { Next::Rest } else { self.next_key(now) };
        self.serve_held(&next, now);
        if self.asking.is_none() && now >= self.ask_again_at {
            let question = self.next_question(next, now);
            self.asking = question.map(|question| stalls::round("claim", stalls::USUAL, question).boxed());
        }
        let waits = self.command.borrow().is_some() && self.work_waits();
        let idle_seconds = self.idle.note(waits && self.running.is_empty(), now);
        counter!(GPU_IDLE.name).increment(idle_seconds);
    }

    fn is_over(&self) -> bool {
        let nothing_left = self.held.is_empty() && self.running.is_empty() && self.unsettled.is_empty();
        self.stopping && nothing_left && self.asking.is_none() && (!self.look_at_own || self.out_of_time)
    }

    fn heard(&mut self, signal: Signal, now: Instant) {
        match signal {
            Signal::Scanned(places) => {
                self.ready.scanned(places);
                self.waiting = None;
            }
            Signal::Settled(number) => {
                self.unsettled.remove(&number);
            }
            Signal::CancelAsked(numbers) => self.cancel(&numbers),
            Signal::Loaded { key, took } => self.loaded(key, took, now),
            Signal::LoadFailed { key } => self.load_failed(&key, now),
            Signal::HostUp(models) => {
                self.host_up = true;
                self.presence.published(models);
                self.waiting = None;
            }
            Signal::HostAway => self.host_is_away(),
            Signal::NothingResident => {
                if self.load.is_none() && !self.gpu_is_busy() {
                    self.residency.lost();
                }
            }
        }
    }

    fn cancel(&mut self, numbers: &[LeaseNo]) {
        for running in self.running.values().filter(|running| numbers.contains(&running.number())) {
            running.abort(Abort::Cancelled);
        }
        let (cancelled, held): (VecDeque<Job>, _) =
            std::mem::take(&mut self.held).into_iter().partition(|job| numbers.contains(&job.lease.no));
        self.held = held;
        for job in cancelled {
            self.settle(job.leave(Ending::Cancelled));
        }
    }

    /// Whether and as whom jobs may be claimed and begun now.
    fn right_to_claim(&self) -> Option<(Holder, Spell)> {
        if self.stopping || !self.host_up || self.pause.until(Instant::now()).is_some() {
            return None;
        }
        let holder = self.command.borrow().clone()?;
        let spell = self.worker.liveness.spell()?;
        (spell.worker == holder.worker).then_some((holder, spell))
    }

    fn gpu_is_busy(&self) -> bool {
        self.running.values().any(|running| running.lane == Lane::Gpu)
    }

    fn free_slots(&self) -> usize {
        self.worker.config.host.slots.saturating_sub(self.running.len())
    }

    /// Hands a lease to the recorder with the job's fate. It counts as ours until that is written.
    fn settle(&mut self, left: Left) {
        let Left { lease, past, ending, model_label } = left;
        if let Some(exit) = ending.fate(past) {
            self.unsettled.insert(lease.no, exit.bytes());
            self.desk.recorder.settle(Leaving { lease, exit, model_label });
        }
    }
}

/// The answer to the question that is out, if one is.
async fn answer(asking: &mut Option<BoxFuture<'static, Answer>>) -> Answer {
    match asking {
        Some(question) => {
            let answer = question.await;
            *asking = None;
            answer
        }
        None => std::future::pending().await,
    }
}
