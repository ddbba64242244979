//! Chores that end or delete old rows, a batch at a time, until nothing is left for now.

use std::sync::Arc;
use std::time::Duration;

use foreman_runtime::background::{self, Round, Rounds};
use foreman_store::{DrainBound, StoreError};
use foreman_webhook::schedule::TOO_OLD;
use metrics::counter;

use crate::janitor::since::{self, Since};
use crate::webhooks::dispatcher::DELIVERIES;
use crate::worker::Worker;

/// Rows per batch, which takes some ten milliseconds.
const BATCH: u32 = 1_000;

/// Between two sweeps of rows that somebody waits for.
pub(super) const SOON: Duration = Duration::from_secs(1);

/// Between two sweeps of rows that only take room.
pub(super) const SOMETIMES: Duration = Duration::from_secs(60);

/// Between two sweeps of rows that are few, or slow to find.
pub(super) const RARELY: Duration = Duration::from_secs(3_600);

/// Sweeps until the process stops.
pub(super) async fn run(worker: &Worker, chore: impl Rounds, every: Duration) {
    background::repeat(chore, worker.shutdown.soft(), every).await;
}

/// After a full batch there may be more.
fn after_batch(found: u64) -> Round {
    if found >= BATCH.into() { Round::More } else { Round::Idle }
}

/// Ends waiting jobs whose `expires_at` has passed.
pub(super) struct Expiry {
    worker: Arc<Worker>,
    since: Since,
}

impl Expiry {
    pub(super) fn new(worker: Arc<Worker>) -> Self {
        Self { worker, since: Since::new(since::OFTEN) }
    }
}

impl Rounds for Expiry {
    const TASK: &'static str = "expire";
    type Error = StoreError;

    async fn run_once(&mut self) -> Result<Round, StoreError> {
        let store = &self.worker.store;
        let look = self.since.look(store.clock());
        let expired = store.expire_since(look.since, BATCH.into()).await?;
        Ok(self.since.learn(&look, expired))
    }
}

/// Ends webhooks that nobody took for six days, so that no receiver can keep a day's jobs from being dropped.
pub(super) struct OldDeliveries {
    worker: Arc<Worker>,
    since: Since,
}

impl OldDeliveries {
    pub(super) fn new(worker: Arc<Worker>) -> Self {
        Self { worker, since: Since::new(since::SELDOM) }
    }
}

impl Rounds for OldDeliveries {
    const TASK: &'static str = "end-old-deliveries";
    type Error = StoreError;

    async fn run_once(&mut self) -> Result<Round, StoreError> {
        let store = &self.worker.store;
        let look = self.since.look(store.clock());
        let (ended, swept) = store.end_old_deliveries(look.since, BATCH.into()).await?;
        for (job, seq) in &ended {
            counter!(DELIVERIES.name, "outcome" => "failed", "code" => TOO_OLD).increment(1);
            tracing::warn!(job.id = %job, seq, code = TOO_OLD, "a webhook is given up");
        }
        Ok(self.since.learn(&look, swept))
    }
}

/// Forgets keys whose day is over.
pub(super) struct IdempotencyKeys {
    worker: Arc<Worker>,
    since: Since,
}

impl IdempotencyKeys {
    pub(super) fn new(worker: Arc<Worker>) -> Self {
        Self { worker, since: Since::new(since::SELDOM) }
    }
}

impl Rounds for IdempotencyKeys {
    const TASK: &'static str = "prune-idempotency-keys";
    type Error = StoreError;

    async fn run_once(&mut self) -> Result<Round, StoreError> {
        let store = &self.worker.store;
        let look = self.since.look(store.clock());
        let pruned = store.prune_idempotency_keys(look.since, BATCH.into()).await?;
        Ok(self.since.learn(&look, pruned))
    }
}

/// Forgets receivers that have long had nothing to receive.
pub(super) struct Lanes(pub(super) Arc<Worker>);

impl Rounds for Lanes {
    const TASK: &'static str = "prune-lanes";
    type Error = StoreError;

    async fn run_once(&mut self) -> Result<Round, StoreError> {
        let lanes = self.0.store.prune_lanes(BATCH.into()).await?;
        let endpoints = self.0.store.prune_endpoints(BATCH.into()).await?;
        Ok(after_batch(lanes.max(endpoints)))
    }
}

/// Adds up what jobs have used, by the hour.
pub(super) struct Usage {
    worker: Arc<Worker>,
    bound: DrainBound,
}

impl Usage {
    pub(super) fn new(worker: Arc<Worker>) -> Self {
        Self { worker, bound: DrainBound::default() }
    }
}

impl Rounds for Usage {
    const TASK: &'static str = "add-up-usage";
    type Error = StoreError;

    async fn run_once(&mut self) -> Result<Round, StoreError> {
        Ok(after_batch(self.worker.store.add_up_usage(&mut self.bound, BATCH.into()).await?))
    }
}

/// Forgets what was used long ago.
pub(super) struct OldUsage(pub(super) Arc<Worker>);

impl Rounds for OldUsage {
    const TASK: &'static str = "prune-usage";
    type Error = StoreError;

    async fn run_once(&mut self) -> Result<Round, StoreError> {
        let kept_for = self.0.config.usage_ttl;
        let sums = self.0.store.prune_usage(kept_for).await?;
        Ok(if sums > 0 { Round::More } else { Round::Idle })
    }
}

/// Forgets what clients stored on days that are over.
pub(super) struct StoredBytes(pub(super) Arc<Worker>);

impl Rounds for StoredBytes {
    const TASK: &'static str = "prune-stored-bytes";
    type Error = StoreError;

    async fn run_once(&mut self) -> Result<Round, StoreError> {
        Ok(after_batch(self.0.store.prune_stored_bytes(BATCH.into()).await?))
    }
}

/// Forgets what hosts meant to load long ago.
pub(super) struct HostIntents(pub(super) Arc<Worker>);

impl Rounds for HostIntents {
    const TASK: &'static str = "prune-host-intents";
    type Error = StoreError;

    async fn run_once(&mut self) -> Result<Round, StoreError> {
        self.0.store.prune_host_intents().await?;
        Ok(Round::Idle)
    }
}

/// Forgets source addresses of which nothing is left.
pub(super) struct AddressClients(pub(super) Arc<Worker>);

impl Rounds for AddressClients {
    const TASK: &'static str = "prune-address-clients";
    type Error = StoreError;

    async fn run_once(&mut self) -> Result<Round, StoreError> {
        Ok(after_batch(self.0.store.prune_address_clients(BATCH.into()).await?))
    }
}
