//! Sends webhooks: looks which receivers have something due, claims as much as there is room for, sends, and writes
//! what became of it. A claim is leased, numbered and counted before a byte goes out, and no database transaction is
//! open while a receiver is being talked to.

mod attempt;
mod destination;
mod failure;
mod heavy;
mod lane_memory;
mod receivers;
mod render;
mod resolver;
mod seats;
mod sender;
mod settler;
mod start;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foreman_runtime::background::{self, Round, Rounds};
use foreman_runtime::metrics::Metric;
use foreman_store::{
    ClaimedDeliveries, DeliveryTerms, LaneHead, LaneId, LaneOffer, Store, StoreError, wake::Topic,
};
use foreman_webhook::Guard;
use metrics::counter;
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::alarm::Alarm;
use crate::last_rounds::LastRounds;
use crate::worker::Worker;
use attempt::{Attempted, Context, LEASE_MARGIN};
use destination::Destinations;
use heavy::Heavy;
use lane_memory::LaneMemory;
use receivers::Receivers;
use seats::{CountedLane, Seats};
use sender::Sender;

pub(crate) const DELIVERIES: Metric = Metric::labelled_counter(
    "foreman_deliveries_total",
    "Attempts to deliver a webhook, by what became of the delivery: delivered, retry or failed; and why.",
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

/// A batch this large was made under load. Then the next one gathers for a moment first: a statement over 100 rows costs
/// hardly more than one over 10, and nobody notices the wait.
const UNDER_LOAD: usize = 16;
const GATHER_FOR: Duration = Duration::from_millis(5);

/// Reports that may wait for the settler. Past that, attempts that are over keep their seats.
const REPORTS: usize = 1_024;

/// Sends until the process stops, and until the webhooks of what was run here are sent, then waits for what is under way.
pub(crate) async fn run(worker: Arc<Worker>, last: LastRounds) -> anyhow::Result<()> {
    let alarm = Arc::new(Alarm::new());
    let (over, reports) = mpsc::channel(REPORTS);
    let last = Arc::new(last);
    let dispatcher = Dispatcher::new(Arc::clone(&worker), Arc::clone(&alarm), over, Arc::clone(&last))?;
    worker.shutdown.spawn("settle-deliveries", settler::run(Arc::clone(&worker), reports));
    let news = worker.store.wakeups().subscribe(Topic::Delivery);
    tokio::select! {
        () = background::repeat(dispatcher, last.stop(), &alarm.wake, POLL) => Ok(()),
        never = alarm.ring_for(news) => match never {},
        never = last.watch(&alarm.wake) => match never {},
    }
}

struct Dispatcher {
    worker: Arc<Worker>,
    store: Store,
    context: Arc<Context>,
    alarm: Arc<Alarm>,
    seats: Seats,
    heavy: Heavy,
    memory: LaneMemory,
    destinations: Destinations,
    receivers: Receivers,
    terms: DeliveryTerms,
    over: mpsc::Sender<Attempted>,
    last: Arc<LastRounds>,
}

impl Dispatcher {
    fn new(
        worker: Arc<Worker>,
        alarm: Arc<Alarm>,
        over: mpsc::Sender<Attempted>,
        last: Arc<LastRounds>,
    ) -> anyhow::Result<Self> {
        let settings = &worker.config.webhooks;
        let destinations = Destinations::default();
        let guard = Guard::new(settings.allow.clone());
        let most = |terminal| i16::try_from(settings.schedule.max_attempts(terminal)).unwrap_or(i16::MAX);
        let lease = settings.timeout + LEASE_MARGIN;
        let seal = worker.config.secret_key.as_ref().map(|key| foreman_store::Seal::new(key.bytes()));
        Ok(Self {
            context: Arc::new(Context {
                sender: Sender::new(guard, destinations.clone(), settings.timeout)?,
                schedule: settings.schedule.clone(),
                clock: worker.store.clock().clone(),
                inline_limit: settings.inline_limit,
                public_url: settings.public_url.clone(),
                store: worker.store.clone(),
                large_reads: worker.large_reads.clone(),
                lease,
            }),
            heavy: Heavy::new(Arc::clone(&alarm)),
            seats: Seats::new(Arc::clone(&alarm)),
            memory: LaneMemory::new(),
            receivers: Receivers::new(seal, settings.secret.clone()),
            terms: DeliveryTerms {
                lease,
                max_attempts_terminal: most(true),
                max_attempts: most(false),
                inline_limit: i64::try_from(settings.inline_limit).unwrap_or(i64::MAX),
            },
            destinations,
            alarm,
            over,
            last,
            store: worker.store.on_own_connection(),
            worker,
        })
    }

    /// The seats there are, offered to the lanes that have something due.
    fn offers(&self, due: Vec<LaneHead>) -> (Vec<LaneOffer>, HashMap<LaneId, CountedLane>) {
        let lanes: Vec<CountedLane> = due
            .into_iter()
            .map(|head| CountedLane {
                lane: head.lane,
                client: head.client,
                destination: head.origin.and_then(|origin| self.destinations.of(&origin)),
                proven: head.healthy == Some(true),
            })
            .collect();
        // With more lanes than seats, chance decides whose turn it is: there is no last one that always goes without.
        let first = rand::random_range(0..lanes.len().max(1));
        let offered = self.seats.offer(&lanes, first);
        let offers: Vec<LaneOffer> = lanes
            .iter()
            .zip(offered)
            .filter(|(_, at_most)| *at_most > 0)
            .map(|(lane, at_most)| LaneOffer {
                lane: lane.lane,
                since: self.memory.since(lane.lane),
                at_most: i32::try_from(at_most).unwrap_or(i32::MAX),
                heavy_bytes: i64::try_from(self.heavy.room_at(lane)).unwrap_or(i64::MAX),
            })
            .collect();
        (offers, lanes.into_iter().map(|lane| (lane.lane, lane)).collect())
    }
}

impl Rounds for Dispatcher {
    const TASK: &'static str = "dispatch";
    type Error = StoreError;

    /// One look, one claim, and the sending begun of what it brought.
    async fn run_once(&mut self) -> Result<Round, StoreError> {
        if self.seats.is_full() {
            // The next seat that is left rings.
            return Ok(Round::Idle);
        }
        let is_last = self.last.have_begun();
        let began = Instant::now();
        let lanes = self.store.look_at_lanes(&self.memory.known(began)).await?;
        self.memory.learn(&lanes, began, Instant::now());
        let (due, later): (Vec<LaneHead>, Vec<LaneHead>) =
            lanes.heads.into_iter().partition(|head| head.first_at <= lanes.now);
        let next = later.iter().map(|head| head.due_in(lanes.now)).min();
        self.alarm.set(next.map(|wait| (Instant::now() + wait).into()));

        if is_last && due.is_empty() {
            // What follows an event that is being sent is due, so what is being sent now is the last.
            self.last.end();
        }

        let (offers, lanes) = self.offers(due);
        if offers.is_empty() {
            return Ok(Round::Idle);
        }
        let claimed_at = Instant::now();
        let heavy_bytes = i64::try_from(self.heavy.room()).unwrap_or(i64::MAX);
        let claimed = self.store.claim_deliveries(&offers, heavy_bytes, self.terms).await?;
        count(&claimed);
        let mut brought: HashMap<LaneId, i32> = HashMap::new();
        for delivery in &claimed.to_send {
            *brought.entry(delivery.receiver.lane).or_default() += 1;
        }
        let under_load = claimed.to_send.len() >= UNDER_LOAD;
        self.begin(claimed.to_send, claimed_at, &lanes).await?;
        if under_load {
            sleep(GATHER_FOR).await;
        }
        // A lane that gave less than it might have has nothing more for now.
        let more = offers.iter().any(|offer| brought.get(&offer.lane) == Some(&offer.at_most));
        Ok(if more && !self.seats.is_full() { Round::More } else { Round::Idle })
    }
}

/// The settler listens for as long as anybody can report to it, but for the end of the grace.
async fn tell(over: &mpsc::Sender<Attempted>, attempted: Attempted) {
    if over.send(attempted).await.is_err() {
        tracing::warn!("the process ends before a webhook's outcome could be written; it will be sent again");
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
