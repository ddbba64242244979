//! Moves transitions from the outbox into the history, and makes the deliveries that follow from them. It must never wait for
//! a receiver: a slow or dead one must not hold up the history.

use std::sync::Arc;
use std::time::Duration;

use foreman_runtime::background::{self, Round, Rounds};
use foreman_runtime::metrics::Metric;
use foreman_store::wake::{Topic, Wakeup};
use foreman_store::{DrainBound, EndedJobs, Relayed, Store, StoreError};
use metrics::counter;
use tokio::time::Instant;

use super::dispatcher::Desk;
use super::dispatcher::at_once::AtOnce;
use crate::gather::Gather;
use crate::last_rounds::LastRounds;
use crate::worker::Worker;

/// Counted here, because the end of every job passes here once, whoever ended it.
const JOBS_FINISHED: Metric = Metric::labelled_counter(
    "foreman_jobs_finished_total",
    "Jobs that came to their end, by model and state.",
);

pub(crate) const METRICS: &[Metric] = &[JOBS_FINISHED];

/// Rows per turn: enough to catch up with a burst, and done in some 20 ms.
const BATCH: u32 = 1_000;

/// A turn costs about as much as 60 rows do.
const GATHER: Gather = Gather::new(32, Duration::from_millis(10));

/// Between two looks when nobody wakes us. Wake-ups may get lost, and this poll finds what they would have told.
const POLL: Duration = Duration::from_millis(500);

/// A restored database gives out ids again that it gave out before, and after a crash rows may be back that were moved just
/// before. So now and then a turn looks at everything. Where there is much, that takes a tenth of a second.
const FORGET_BOUND_AFTER: Duration = Duration::from_secs(5);

/// Takes turns with the relays of the other workers until the process stops, and until what was run here is relayed.
///
/// With the desk of a dispatcher in this process, each turn claims for it what can be sent at once.
pub(crate) async fn run(
    worker: Arc<Worker>,
    desk: Option<Arc<Desk>>,
    last: LastRounds,
) -> anyhow::Result<()> {
    let last = Arc::new(last);
    // When a crash undoes a turn, its rows are in the outbox again, and its webhooks are made again under the ids that they had.
    let store = worker.store.on_own_unflushed_connection();
    let relay = Relay {
        at_once: desk.map(|desk| AtOnce::new(&worker, store.clone(), desk)),
        store,
        bound: DrainBound::default(),
        bound_since: Instant::now(),
        gather: GATHER,
        outbox: worker.store.wakeups().subscribe(Topic::Outbox),
        last: Arc::clone(&last),
    };
    tokio::select! {
        () = background::repeat(relay, last.stop(), POLL) => Ok(()),
        never = last.watch() => match never {},
    }
}

struct Relay {
    store: Store,
    at_once: Option<AtOnce>,
    bound: DrainBound,
    bound_since: Instant,
    gather: Gather,
    outbox: Wakeup,
    last: Arc<LastRounds>,
}

impl Rounds for Relay {
    const TASK: &'static str = "relay";
    type Error = StoreError;

    /// One turn. Rows that arrive while it runs go with the next one, so turns grow with the load.
    async fn run_once(&mut self) -> Result<Round, StoreError> {
        if self.bound_since.elapsed() > FORGET_BOUND_AFTER {
            self.bound = DrainBound::default();
            self.bound_since = Instant::now();
        }
        let is_last = self.last.have_begun();
        let (offered, began) = (self.at_once.as_ref().map(AtOnce::offer), Instant::now());
        let claim = offered.as_ref().map(|offered| &offered.claim);
        let (relayed, claimed) = self.store.relay_and_claim(&mut self.bound, BATCH.into(), claim).await?;
        match relayed {
            // The relay that is at work was woken by the same news, and looks again after its turn.
            Relayed::Busy => Ok(Round::Idle),
            Relayed::Moved { events, ended, .. } => {
                for EndedJobs { model_label, state, jobs } in ended {
                    counter!(JOBS_FINISHED.name, "model" => model_label, "state" => state.as_str())
                        .increment(jobs);
                }
                if let Some((at_once, offered)) = self.at_once.as_mut().zip(offered) {
                    at_once.begin(claimed, began.into_std(), offered).await?;
                }
                if events >= BATCH.into() {
                    return Ok(Round::More);
                }
                if is_last {
                    // When this turn began, everything that ran here had been written. It has moved the last of that.
                    self.last.end();
                }
                self.gather.after(usize::try_from(events).unwrap_or(usize::MAX)).await;
                Ok(Round::Idle)
            }
        }
    }

    async fn woken(&mut self) {
        tokio::select! {
            () = self.outbox.changed() => {}
            () = self.last.begin() => {}
        }
    }
}
