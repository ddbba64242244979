//! Sends webhooks. Each round looks which lanes have something due, [chooses](choice) how much of each to claim, claims it,
//! and [starts](start) an [attempt] for each delivery. The [settler] writes the reports of the attempts. Two loops do so, each at
//! its own [pace]. What nothing stands before they need not look for: the relay claims it [at once](at_once).
//!
//! A claim is leased, numbered and counted before a byte goes out, though it does not wait for the disk. No transaction is
//! ever open while we talk to a receiver.

mod lane_memory;

pub(crate) mod at_once;
mod choice;
mod destination;
mod freed;
mod heavy;
mod pace;
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

use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use foreman_runtime::background::{self, Round, Rounds};
use foreman_runtime::metrics::Metric;
use foreman_store::wake::{Topic, Wakeup};
use foreman_store::{ClaimedDeliveries, Delivery, LaneHead, Store, StoreError};
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
use pace::Pace;
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
pub(crate) async fn run(
    worker: Arc<Worker>,
    desk: Arc<Desk>,
    reports: Reports,
    last: LastRounds,
) -> anyhow::Result<()> {
    let last = Arc::new(last);
    let [prompt, patient] = [Pace::Prompt, Pace::Patient]
        .map(|pace| Dispatcher::new(pace, &worker, Arc::clone(&desk), Arc::clone(&last)));
    drop(desk);
    worker.shutdown.spawn("settle-deliveries", settler::run(Arc::clone(&worker), reports.0));
    let stop = last.stop().clone();
    worker.shutdown.spawn_infallible(TASK, async move { background::repeat(patient, &stop, POLL).await });
    tokio::select! {
        () = background::repeat(prompt, last.stop(), POLL) => Ok(()),
        never = last.watch() => match never {},
    }
}

/// The reports of the attempts, for the settler.
pub(crate) struct Reports(mpsc::Receiver<Attempted>);

/// What the two loops share, and the relay with them.
pub(crate) struct Desk {
    memory: Mutex<LaneMemory>,
    /// A seat, or bytes of a heavy webhook, were given back, or one loop has news for the other.
    freed: Arc<Freed>,
    destinations: Destinations,
    seats: Pool,
    heavy: Heavy,
    context: Arc<Context>,
    over: mpsc::Sender<Attempted>,
}

impl Desk {
    pub(crate) fn new(worker: &Worker, sender: Sender) -> (Arc<Self>, Reports) {
        let freed = Arc::<Freed>::default();
        let (over, reports) = mpsc::channel(REPORTS);
        let desk = Self {
            memory: Mutex::new(LaneMemory::new()),
            destinations: sender.destinations(),
            seats: seats(Arc::clone(&freed)),
            heavy: Heavy::new(Arc::clone(&freed)),
            context: Arc::new(Context::new(worker, sender)),
            freed,
            over,
        };
        (Arc::new(desk), Reports(reports))
    }

    /// Begins attempts, for a task that claims through `store`.
    fn starter(&self, worker: &Arc<Worker>, store: Store) -> Starter {
        Starter::new(
            Arc::clone(worker),
            store,
            Arc::clone(&self.context),
            self.seats.clone(),
            self.heavy.clone(),
            self.over.clone(),
        )
    }

    /// Takes note that these were claimed. Must be called before their attempts begin: word of a seat that is free again may
    /// come at once.
    fn count_begun(&self, claimed: &[Delivery]) {
        counter!(CLAIMED.name).increment(claimed.len() as u64);
        self.memory().begin_attempts(claimed.iter().map(|delivery| delivery.receiver.lane));
    }

    fn memory(&self) -> MutexGuard<'_, LaneMemory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of the two loops. It looks what is due, chooses, claims, and hands the claimed deliveries to the starter.
struct Dispatcher {
    pace: Pace,
    store: Store,
    /// The prompt loop hears that a delivery may have become due, or will be due earlier than those that we know. The patient one
    /// hears that it must search for such.
    news: Wakeup,
    last: Arc<LastRounds>,
    desk: Arc<Desk>,
    starter: Starter,
    gather: Gather,
}

impl Dispatcher {
    fn new(pace: Pace, worker: &Arc<Worker>, desk: Arc<Desk>, last: Arc<LastRounds>) -> Self {
        // When a crash undoes a claim, its webhook is due again, and comes a second time under the same id: as it does when we
        // die before its report is written.
        let store = worker.store.on_own_unflushed_connection();
        let news = store.wakeups().subscribe(match pace {
            Pace::Prompt => Topic::Delivery,
            Pace::Patient => Topic::Lane,
        });
        let starter = desk.starter(worker, store.clone());
        Self { pace, store, news, last, desk, starter, gather: GATHER }
    }

    /// Looks which lanes have something due. Returns those to claim from.
    async fn look(&self) -> Result<Vec<LaneHead>, StoreError> {
        let (pace, desk, began) = (self.pace, &*self.desk, Instant::now());
        let freed = desk.freed[pace].take();
        let (search, mut is_news_for_other) = {
            let mut memory = desk.memory();
            let is_news_for_other = memory.are_freed(pace, &freed, began)
                | (pace == Pace::Prompt && memory.are_news_for_patient());
            (memory.search(pace, began, self.store.clock().now(), &desk.seats), is_news_for_other)
        };
        let mut due = Vec::new();
        // The prompt pace always searches for new deliveries.
        if pace == Pace::Prompt || !search.is_empty() {
            let lanes = self.store.look_at_lanes(&search).await?;
            let mut memory = desk.memory();
            is_news_for_other |= memory.learn(pace, &search, &lanes, began, Instant::now());
            let is_due = |head: &LaneHead| !head.is_disabled && head.due_in(lanes.now).is_zero();
            due = lanes.heads.into_iter().filter(is_due).collect();
            is_news_for_other |= memory.choose(pace, &mut due, &desk.seats);
        }
        if is_news_for_other {
            desk.freed[pace.other()].call();
        }
        Ok(due)
    }

    /// When the next look is due.
    fn next_look(&self) -> Round {
        self.desk.memory().next_look(self.pace, Instant::now(), self.store.clock().now())
    }

    fn choose(&self, due: &[LaneHead]) -> Choice {
        // With more lanes than seats, chance decides whose turn it is: no lane always comes last and goes without.
        let (desk, first) = (&*self.desk, rand::random_range(0..due.len().max(1)));
        let mut memory = desk.memory();
        let choice = Choice::new(due, first, &desk.seats, &desk.heavy, &memory, &desk.destinations);
        if choice.offers.len() < due.len() {
            memory.was_short();
        }
        choice
    }

    /// One look, one claim at most, and the begin of its attempts.
    async fn look_and_claim(&mut self) -> Result<Round, StoreError> {
        if self.desk.seats.room() == 0 {
            // The next seat that is given back wakes us.
            self.desk.memory().was_short();
            return Ok(Round::Idle);
        }
        let due = self.look().await?;
        let mut choice = self.choose(&due);
        if choice.offers.is_empty() {
            return Ok(self.next_look());
        }
        let claimed_at = Instant::now();
        let heavy_bytes = i64::try_from(self.desk.heavy.room(self.pace)).unwrap_or(i64::MAX);
        let terms = self.desk.context.terms;
        let claimed = self.store.claim_deliveries(&choice.offers, heavy_bytes, terms).await?;
        count_ended(&claimed);
        let brought = claimed.to_send.len();
        let empty = choice.empty(&claimed.to_send);
        let may_have_more = empty.len() < choice.offers.len();
        self.desk.memory().are_empty(self.pace, &empty, claimed_at);
        self.desk.count_begun(&claimed.to_send);
        self.starter.begin(claimed.to_send, claimed_at, &mut choice).await?;
        if choice.end() && self.desk.memory().were_reserved_in_vain(self.pace) {
            self.desk.freed[self.pace.other()].call();
        }
        self.gather.after(brought).await;
        Ok(if may_have_more && self.desk.seats.room() > 0 { Round::More } else { self.next_look() })
    }

    /// Ends the last rounds if nothing is left that is due. A later event of a job that is being sent now is due already: so what
    /// is being sent now is the last.
    fn end_if_that_was_all(&self) {
        match self.pace {
            Pace::Prompt if self.desk.memory().has_due(self.store.clock().now()) => {}
            Pace::Prompt => self.last.end(),
            // It may have seen to what was left, but what is new only the other loop sees.
            Pace::Patient => self.desk.freed[Pace::Prompt].call(),
        }
    }
}

impl Rounds for Dispatcher {
    const TASK: &'static str = TASK;
    type Error = StoreError;

    async fn run_once(&mut self) -> Result<Round, StoreError> {
        let is_last = self.last.have_begun();
        let round = self.look_and_claim().await;
        if !matches!(round, Ok(Round::More)) {
            self.desk.memory().pass_ends(self.pace);
        }
        if is_last && round.is_ok() {
            self.end_if_that_was_all();
        }
        round
    }

    async fn woken(&mut self) {
        let ends = async {
            match self.pace {
                Pace::Prompt => self.last.begin().await,
                // It hears that from the prompt one, and what the other news mean for it.
                Pace::Patient => pending().await,
            }
        };
        tokio::select! {
            () = self.news.changed() => {
                if self.pace == Pace::Patient {
                    self.desk.memory().search_anew(Instant::now());
                }
            }
            () = ends => {}
            () = self.desk.freed[self.pace].changed() => {}
        }
    }
}

fn count_ended(claimed: &ClaimedDeliveries) {
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
