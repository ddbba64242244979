//! Makes the partitions of coming days well before they are needed, and drops those of past days once nothing needs them.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use foreman_runtime::background::{self, Round, Rounds};
use foreman_store::{PartitionUpkeep, StoreError};
use tokio::time::Instant;

use crate::worker::Worker;

/// Partitions are made a fortnight ahead, so an hour more or less does not matter.
const EVERY: Duration = Duration::from_secs(3_600);

/// How soon to try again while somebody else locks the tables (a backup, say).
const BUSY: Duration = Duration::from_secs(60);

pub(super) async fn make(worker: Arc<Worker>) {
    let making = Making { worker: Arc::clone(&worker), due: Instant::now() };
    background::repeat(making, worker.shutdown.soft(), BUSY).await;
}

pub(super) async fn drop_old(worker: Arc<Worker>) {
    let dropping = Dropping { worker: Arc::clone(&worker), due: Instant::now() };
    background::repeat(dropping, worker.shutdown.soft(), BUSY).await;
}

struct Making {
    worker: Arc<Worker>,
    due: Instant,
}

impl Rounds for Making {
    const TASK: &'static str = "make-partitions";
    type Error = StoreError;

    async fn run_once(&mut self) -> Result<Round, StoreError> {
        if Instant::now() >= self.due
            && let PartitionUpkeep::Done(days) = self.worker.store.make_partitions().await?
        {
            self.due = Instant::now() + EVERY;
            if days > 0 {
                tracing::info!(days, "made partitions");
            }
        }
        Ok(Round::Idle)
    }
}

struct Dropping {
    worker: Arc<Worker>,
    due: Instant,
}

impl Rounds for Dropping {
    const TASK: &'static str = "drop-partitions";
    /// It goes over whole tables.
    const LAWFUL: Duration = Duration::from_secs(3_600);
    type Error = StoreError;

    async fn run_once(&mut self) -> Result<Round, StoreError> {
        let ttl = TimeDelta::from_std(self.worker.config.job_ttl).unwrap_or(TimeDelta::MAX);
        if Instant::now() >= self.due
            && let PartitionUpkeep::Done(days) = self.worker.store.drop_partitions(ttl).await?
        {
            self.due = Instant::now() + EVERY;
            if days > 0 {
                tracing::info!(days, "dropped partitions");
            }
        }
        Ok(Round::Idle)
    }
}
