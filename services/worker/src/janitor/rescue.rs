//! Requeues the leases of dead workers, and never one whose worker is alive.

use std::sync::Arc;
use std::time::Duration;

use foreman_runtime::background::{self, Round, Rounds};
use foreman_runtime::metrics::Metric;
use foreman_store::StoreError;
use metrics::counter;

use crate::worker::Worker;

pub(super) const RESCUES: Metric =
    Metric::counter("foreman_lease_rescues_total", "Jobs taken back from workers that had died or hung.");

/// A quarter of the shortest TTL: the dead are found well within half of theirs.
const POLL: Duration = Duration::from_millis(500);

pub(super) async fn run(worker: Arc<Worker>) {
    let rescue = Rescue { worker: Arc::clone(&worker) };
    background::repeat(rescue, worker.shutdown.soft(), POLL).await;
}

struct Rescue {
    worker: Arc<Worker>,
}

impl Rounds for Rescue {
    const TASK: &'static str = "rescue";
    type Error = StoreError;

    async fn run_once(&mut self) -> Result<Round, StoreError> {
        let Worker { store, peers, liveness, .. } = &*self.worker;
        let mut dead = peers.dead(store).await?;
        let Some(believed) = liveness.may_judge() else { return Ok(Round::Idle) };
        dead.retain(|heartbeat| heartbeat.ttl <= believed);
        let rescued = store.rescue(&dead).await?;
        if rescued.workers > 0 || rescued.leases > 0 {
            counter!(RESCUES.name).increment(rescued.leases as u64);
            tracing::warn!(
                workers = rescued.workers,
                leases = rescued.leases,
                "requeued the jobs of dead workers"
            );
        }
        Ok(Round::Idle)
    }
}
