//! Sends webhooks. Each round looks which lanes have something due, [chooses](choice) how much of each to claim, claims it,
//! and [starts](start) an [attempt] for each delivery. The [settler] writes the reports of the attempts.
//!
//! A claim is leased, numbered and counted before a byte goes out, though it does not wait for the disk. No transaction is
//! ever open while we talk to a receiver.

mod lane_memory;

mod choice;
mod destination;
mod freed;
mod heavy;
mod pool;
mod seats;

mod attempt;
mod receivers;
mod render;
mod start;

mod failure;
mod resolver;
pub(crate) mod sender;

mod settler;

pub(crate) mod example;

use std::sync::Arc;
use std::time::{Duration, Instant};

use foreman_runtime::background::{self, Round, Rounds};
use foreman_runtime::metrics::Metric;
use foreman_store::wake::{Topic, Wakeup};
use foreman_store::{ClaimedDeliveries, DeliveryTerms, LaneHead, Store, StoreError};
use metrics::counter;
use tokio::sync::mpsc;

use crate::gather::Gather;
use crate::last_rounds::LastRounds;
use crate::worker::Worker;
use attempt::{Attempted, Context};
use choice::Choice;
use destination::Destinations;
use freed::Freed;
use heavy::Heavy;
use lane_memory::LaneMemory;
use pool::Pool;
use seats::seats;
use sender::Sender;
use start::Starter;

const TASK: &str = "dispatch";

pub(crate) const DELIVERIES: Metric = Metric::labelled_counter(
    "foreman_deliveries_total",
    "Attempts to deliver a webhook, by what became of the delivery: delivered, retry, failed or probed; and why.",
);
const CLAIMED: Metric =
    Metric::counter("foreman_deliveries_claimed_total", "Webhooks claimed for an attempt.");
const UNSIGNED: Metric = Metric::counter(
    "foreman_deliveries_unsigned_total",
    "Attempts to deliver a webhook without a signature, because nobody has a secret.",
);
const ATTEMPT_SECONDS: Metric =
    Metric::histogram("foreman_delivery_attempt_seconds", "How long one attempt to deliver a webhook took.");
const LAG_SECONDS: Metric = Metric::histogram(
    "foreman_delivery_lag_seconds",
    "From a job's change of state to its webhook being accepted by the receiver.",
);

pub(crate) const METRICS: &[Metric] = &[DELIVERIES, CLAIMED, UNSIGNED, ATTEMPT_SECONDS, LAG_SECONDS];

/// Between two looks when nobody wakes us and nothing is known to come due.
const POLL: Duration = Duration::from_millis(500);

const GATHER: Gather = Gather::new(16, Duration::from_millis(5));

/// Reports that may wait for the settler. Past that, attempts that are over keep their seats.
const REPORTS: usize = 1_024;

/// Sends until the process stops and the webhooks of the jobs that ran here are sent. Attempts that are still under way go
/// on in tasks of their own, which the process waits for.
pub(crate) async fn run(worker: Arc<Worker>, sender: Sender, last: LastRounds) -> anyhow::Result<()> {
    let last = Arc::new(last);
    let (over, reports) = mpsc::channel(REPORTS);
    let dispatcher = Dispatcher::new(Arc::clone(&worker), sender, over, Arc::clone(&last));
    worker.shutdown.spawn("settle-deliveries", settler::run(Arc::clone(&worker), reports));
    tokio::select! {
        () = background::repeat(dispatcher, last.stop(), POLL) => Ok(()),
        never = last.watch() => match never {},
    }
}

/// The loop that looks what is due, chooses, claims, and hands the claimed deliveries to the starter.
struct Dispatcher {
    store: Store,
    /// A delivery may have become due, or will be due earlier than those that we know.
    news: Wakeup,
    /// A seat, or bytes of a heavy webhook, were given back.
    freed: Arc<Freed>,
    last: Arc<LastRounds>,
    memory: LaneMemory,
    destinations: Destinations,
    seats: Pool,
    heavy: Heavy,
    terms: DeliveryTerms,
    starter: Starter,
    gather: Gather,
}

impl Dispatcher {
    fn new(
        worker: Arc<Worker>,
        sender: Sender,
        over: mpsc::Sender<Attempted>,
        last: Arc<LastRounds>,
    ) -> Self {
        // When a crash undoes a claim, its webhook is due again, and comes a second time under the same id: as it does when we
        // die before its report is written.
        let store = worker.store.on_own_unflushed_connection();
        let destinations = sender.destinations();
        let context = Arc::new(Context::new(&worker, sender));
        let news = store.wakeups().subscribe(Topic::Delivery);
        let freed = Arc::<Freed>::default();
        let (seats, heavy) = (seats(Arc::clone(&freed)), Heavy::new(Arc::clone(&freed)));
        let terms = context.terms;
        let starter = Starter::new(worker, store.clone(), context, seats.clone(), heavy.clone(), over);
        let memory = LaneMemory::new();
        Self { store, news, freed, last, memory, destinations, seats, heavy, terms, starter, gather: GATHER }
    }

    /// Looks which lanes have something due. Returns those to claim from, and when the next look is due.
    async fn look(&mut self) -> Result<(Vec<LaneHead>, Round), StoreError> {
        let began = Instant::now();
        let freed = self.freed.take();
        let search = self.memory.search(began, self.store.clock().now(), &self.seats, &freed);
        let lanes = self.store.look_at_lanes(&search).await?;
        let ended = Instant::now();
        self.memory.learn(&search, &lanes, began, ended);
        let is_due = |head: &LaneHead| !head.is_disabled && head.due_in(lanes.now).is_zero();
        let mut due = lanes.heads.into_iter().filter(is_due).collect();
        self.memory.choose(&mut due, &self.seats);
        Ok((due, self.memory.next_look(ended, lanes.now)))
    }

    fn choose(&self, due: &[LaneHead]) -> Choice {
        // With more lanes than seats, chance decides whose turn it is: no lane always comes last and goes without.
        let first = rand::random_range(0..due.len().max(1));
        Choice::new(due, first, &self.seats, &self.heavy, &self.memory, &self.destinations)
    }

    /// One look, one claim at most, and the begin of its attempts.
    async fn look_and_claim(&mut self) -> Result<Round, StoreError> {
        if self.seats.room() == 0 {
            // The next seat that is given back wakes us.
            return Ok(Round::Idle);
        }
        let is_last = self.last.have_begun();
        let (due, next_look) = self.look().await?;
        if is_last && !self.memory.has_due(self.store.clock().now()) {
            // A later event of a job that is being sent now is due already. So what is being sent now is the last.
            self.last.end();
        }
        let choice = self.choose(&due);
        if choice.offers.is_empty() {
            return Ok(next_look);
        }
        let claimed_at = Instant::now();
        let heavy_bytes = i64::try_from(self.heavy.room()).unwrap_or(i64::MAX);
        let claimed = self.store.claim_deliveries(&choice.offers, heavy_bytes, self.terms).await?;
        count(&claimed);
        let brought = claimed.to_send.len();
        let empty = choice.empty(&claimed.to_send);
        let may_have_more = empty.len() < choice.offers.len();
        self.memory.are_empty(&empty);
        self.starter.begin(claimed.to_send, claimed_at, &choice).await?;
        self.gather.after(brought).await;
        Ok(if may_have_more && self.seats.room() > 0 { Round::More } else { next_look })
    }
}

impl Rounds for Dispatcher {
    const TASK: &'static str = TASK;
    type Error = StoreError;

    async fn run_once(&mut self) -> Result<Round, StoreError> {
        let round = self.look_and_claim().await;
        if !matches!(round, Ok(Round::More)) {
            self.memory.pass_ends();
        }
        round
    }

    async fn woken(&mut self) {
        tokio::select! {
            () = self.news.changed() => {}
            () = self.freed.changed() => {}
            () = self.last.begin() => {}
        }
    }
}

fn count(claimed: &ClaimedDeliveries) {
    counter!(CLAIMED.name).increment(claimed.to_send.len() as u64);
    let lost = claimed.lost - claimed.ended.iter().filter(|ended| ended.code == "dispatcher_lost").count();
    if lost > 0 {
        counter!(DELIVERIES.name, "outcome" => "retry", "code" => "dispatcher_lost").increment(lost as u64);
    }
    for ended in &claimed.ended {
        let code = ended.code;
        counter!(DELIVERIES.name, "outcome" => "failed", "code" => code).increment(1);
        tracing::warn!(job.id = %ended.job, seq = ended.seq, code, "a webhook is given up unsent");
    }
}
