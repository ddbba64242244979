//! Moves transitions on: from the outbox to the history, and to the deliveries that follow from them. It must never
//! look at a receiver: what is slow or dead out there cannot hold up the history.

use std::sync::Arc;
use std::time::Duration;

use foreman_runtime::background::{self, Round, Rounds};
use foreman_runtime::metrics::Metric;
use foreman_store::{EndedJobs, RelayBound, Relayed, Store, StoreError, wake::Topic};
use metrics::counter;
use tokio::time::{Instant, sleep};

use crate::alarm::Alarm;
use crate::last_rounds::LastRounds;
use crate::worker::Worker;

/// Counted here, where every end passes once, whether a worker, a client or the clock brought it.
const JOBS_FINISHED: Metric = Metric::labelled_counter(
    "foreman_jobs_finished_total",
    "Jobs that came to their end, by model and state.",
);

pub(crate) const METRICS: &[Metric] = &[JOBS_FINISHED];

/// Rows a turn: enough to catch up with a burst, and over in some 20 ms.
const BATCH: u32 = 1_000;

/// A turn this large was made under load. Then the next one gathers for a moment first: a turn costs about as much as 60
/// rows do, and nobody notices the wait.
const UNDER_LOAD: u64 = 32;
const GATHER_FOR: Duration = Duration::from_millis(10);

/// Between two looks when nobody wakes us. It guarantees what the wake-ups only hasten.
const POLL: Duration = Duration::from_millis(500);

/// A database that was restored gives out ids once more that were there before, and one that has crashed may have rows again
/// that were moved just before. So now and then a turn looks at everything; it takes a tenth of a second where that is much.
const FORGET_BOUND_AFTER: Duration = Duration::from_secs(5);

/// Takes turns with the relays of the other workers until the process stops, and until what was run here is relayed.
pub(crate) async fn run(worker: Arc<Worker>, last: LastRounds) -> anyhow::Result<()> {
    let alarm = Alarm::new();
    let outbox = worker.store.wakeups().subscribe(Topic::Outbox);
    let last = Arc::new(last);
    let relay = Relay {
        // What a crash undoes of a turn is in the outbox again. No webhook of it was sent: its claim waits for the disk.
        store: worker.store.on_own_unflushed_connection(),
        bound: RelayBound::default(),
        bound_since: Instant::now(),
        last: Arc::clone(&last),
    };
    tokio::select! {
        () = background::repeat(relay, last.stop(), &alarm.wake, POLL) => Ok(()),
        never = alarm.ring_for(outbox) => match never {},
        never = last.watch(&alarm.wake) => match never {},
    }
}

struct Relay {
    store: Store,
    bound: RelayBound,
    bound_since: Instant,
    last: Arc<LastRounds>,
}

impl Rounds for Relay {
    const TASK: &'static str = "relay";
    type Error = StoreError;

    /// One turn. What gathers while it runs goes with the next one: the busier it is, the larger the batches.
    async fn run_once(&mut self) -> Result<Round, StoreError> {
        if self.bound_since.elapsed() > FORGET_BOUND_AFTER {
            self.bound = RelayBound::default();
            self.bound_since = Instant::now();
        }
        let is_last = self.last.have_begun();
        match self.store.relay_from(&mut self.bound, BATCH.into()).await? {
            // Whoever is at work was woken by the same news, and looks again when its turn is over.
            Relayed::Busy => Ok(Round::Idle),
            Relayed::Moved { events, ended, .. } => {
                for EndedJobs { model_label, state, jobs } in ended {
                    counter!(JOBS_FINISHED.name, "model" => model_label, "state" => state.as_str())
                        .increment(jobs);
                }
                if events >= BATCH.into() {
                    return Ok(Round::More);
                }
                if is_last {
                    // It began when all was written that was run here, and has moved the last of that.
                    self.last.end();
                }
                if events >= UNDER_LOAD {
                    sleep(GATHER_FOR).await;
                }
                Ok(Round::Idle)
            }
        }
    }
}
