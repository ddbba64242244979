//! The gauges of the whole installation, read from Postgres. Only one worker may export them at a time, so that their
//! `sum()` over all processes is right.

use std::sync::Arc;
use std::time::Duration;

use foreman_runtime::background::{self, Round, Rounds};
use foreman_runtime::metrics::{Metric, Snapshot};
use foreman_store::{StoreError, WorkerId};

use crate::worker::Worker;

const JOBS_QUEUED: Metric =
    Metric::gauge("foreman_jobs_queued", "Jobs that wait for their turn or their time.");
const OLDEST_QUEUED: Metric = Metric::gauge(
    "foreman_job_oldest_queued_seconds",
    "How long the oldest waiting job of the model might have run already.",
);
const OUTBOX_OLDEST: Metric = Metric::gauge(
    "foreman_outbox_oldest_seconds",
    "How long the oldest change of state has waited for the relay.",
);
const DUE: Metric = Metric::gauge("foreman_deliveries_due", "Webhooks that could be sent now.");
const OLDEST_DUE: Metric =
    Metric::gauge("foreman_delivery_oldest_due_seconds", "How long the oldest due webhook has been due.");
const LANES_OPEN: Metric = Metric::gauge(
    "foreman_lanes_open",
    "Receivers that failed ten times in a row, so that one webhook at a time tries them out.",
);
const HOSTS_DRAINED: Metric =
    Metric::gauge("foreman_hosts_drained", "Hosts that an operator has drained, so that they take no jobs.");
const DAYS_AHEAD: Metric =
    Metric::gauge("foreman_partition_days_ahead", "Days after today that have their partitions.");
const OLDEST_TRANSACTION: Metric = Metric::gauge(
    "foreman_db_oldest_transaction_seconds",
    "The age of the oldest transaction, which keeps dead rows from being cleaned away.",
);

pub(crate) const METRICS: &[Metric] = &[
    JOBS_QUEUED,
    OLDEST_QUEUED,
    OUTBOX_OLDEST,
    DUE,
    OLDEST_DUE,
    LANES_OPEN,
    HOSTS_DRAINED,
    DAYS_AHEAD,
    OLDEST_TRANSACTION,
];

/// Prometheus usually asks every 15 s or less often.
const EVERY: Duration = Duration::from_secs(10);

/// Exports the gauges while it is this worker's turn to do so, until the process stops.
pub(crate) async fn run(worker: Arc<Worker>) -> anyhow::Result<()> {
    let gauges = Gauges { worker: Arc::clone(&worker) };
    background::repeat(gauges, worker.shutdown.soft(), EVERY).await;
    worker.metrics.withdraw();
    Ok(())
}

struct Gauges {
    worker: Arc<Worker>,
}

impl Rounds for Gauges {
    const TASK: &'static str = "gauges";
    type Error = StoreError;

    async fn run_once(&mut self) -> Result<Round, StoreError> {
        match read_if_mine(&self.worker).await {
            Ok(Some(gauges)) => self.worker.metrics.publish(gauges),
            Ok(None) => self.worker.metrics.withdraw(),
            Err(error) => {
                // Withdraw the old numbers, because nobody could tell that they are old.
                self.worker.metrics.withdraw();
                return Err(error);
            }
        }
        Ok(Round::Idle)
    }
}

async fn read_if_mine(worker: &Worker) -> Result<Option<Snapshot>, StoreError> {
    match worker.liveness.id() {
        Some(id) if is_mine(worker, id).await? => Ok(Some(read(worker).await?)),
        _ => Ok(None),
    }
}

async fn is_mine(worker: &Worker, id: WorkerId) -> Result<bool, StoreError> {
    let dead = worker.peers.dead(&worker.store).await?;
    worker.store.exports_gauges(id, &dead).await
}

async fn read(worker: &Worker) -> Result<Snapshot, StoreError> {
    let store = &worker.store;
    let mut gauges = Snapshot::default();
    for backlog in store.model_backlogs().await? {
        let model = [("model", backlog.model.as_str())];
        gauges.set(&JOBS_QUEUED, &model, backlog.queued as f64);
        gauges.set(&OLDEST_QUEUED, &model, backlog.oldest.as_secs_f64());
    }
    let deliveries = store.delivery_backlog().await?;
    gauges.set(&DUE, &[], deliveries.due as f64);
    gauges.set(&OLDEST_DUE, &[], deliveries.oldest_due.as_secs_f64());
    gauges.set(&LANES_OPEN, &[], deliveries.lanes_open as f64);
    gauges.set(&HOSTS_DRAINED, &[], store.drained_hosts().await? as f64);
    gauges.set(&OUTBOX_OLDEST, &[], store.outbox_oldest().await?.as_secs_f64());
    gauges.set(&DAYS_AHEAD, &[], store.partition_days_ahead().await? as f64);
    gauges.set(&OLDEST_TRANSACTION, &[], store.oldest_transaction().await?.as_secs_f64());
    Ok(gauges)
}
