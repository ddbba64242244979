//! Cancels the sync calls of dead apis: their callers are gone, and nobody else would cancel them.
//!
//! Must never judge an api by Postgres' clock.

use std::sync::Arc;
use std::time::Duration;

use foreman_runtime::background::{self, Round, Rounds};
use foreman_store::{ApiId, StoreError};
use tokio::time::Instant;

use crate::membership::silences::Silences;
use crate::worker::Worker;

/// As often as the look for dead workers.
const POLL: Duration = Duration::from_millis(500);

pub(super) async fn run(worker: Arc<Worker>) {
    let orphans = Orphans { worker: Arc::clone(&worker), silences: Silences::default() };
    background::repeat(orphans, worker.shutdown.soft(), POLL).await;
}

struct Orphans {
    worker: Arc<Worker>,
    silences: Silences<ApiId>,
}

impl Rounds for Orphans {
    const TASK: &'static str = "orphans";
    type Error = StoreError;

    async fn run_once(&mut self) -> Result<Round, StoreError> {
        let Worker { store, liveness, .. } = &*self.worker;
        let asked = Instant::now();
        let heartbeats = store.api_heartbeats().await?;
        let mut dead = self.silences.look(heartbeats, asked, Instant::now());
        let Some(believed) = liveness.may_judge() else { return Ok(Round::Idle) };
        dead.retain(|heartbeat| heartbeat.ttl <= believed);
        let orphaned = store.cancel_orphans(&dead).await?;
        if orphaned.apis > 0 {
            tracing::warn!(
                apis = orphaned.apis,
                jobs = orphaned.jobs,
                "cancelled the jobs of callers whose api is dead"
            );
        }
        Ok(Round::Idle)
    }
}
