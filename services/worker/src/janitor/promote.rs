//! Makes scheduled jobs ready when their time comes: the end of a backoff, or their submitter's `run_at`.

use std::sync::Arc;
use std::time::Duration;

use foreman_runtime::background::{self, Round, Rounds};
use foreman_store::StoreError;
use foreman_store::wake::{Topic, Wakeup};
use tokio::time::Instant;

use crate::janitor::since::{self, Since};
use crate::worker::Worker;

/// Jobs per round.
const BATCH: u32 = 1_000;

/// Between two looks when nobody wakes us. Wake-ups may get lost, and this poll finds what they would have told.
const POLL: Duration = Duration::from_millis(500);

/// How soon to look again for a job that seems due and was not promoted: our clock is a little fast, or another janitor has
/// the job.
const AGAIN: Duration = Duration::from_millis(5);

pub(super) async fn run(worker: Arc<Worker>) {
    let scheduled = worker.store.wakeups().subscribe(Topic::Scheduled);
    let promotion = Promotion { worker: Arc::clone(&worker), scheduled, since: Since::new(since::OFTEN) };
    background::repeat(promotion, worker.shutdown.soft(), POLL).await;
}

struct Promotion {
    worker: Arc<Worker>,
    /// A job may be scheduled for sooner than the one that we wait for.
    scheduled: Wakeup,
    since: Since,
}

impl Rounds for Promotion {
    const TASK: &'static str = "promote";
    type Error = StoreError;

    async fn run_once(&mut self) -> Result<Round, StoreError> {
        let store = &self.worker.store;
        let look = self.since.look(store.clock());
        let (promoted, next_due) = store.promote_since(look.since, BATCH.into()).await?;
        // A job may be due already by our clock, and not yet by the clock of Postgres.
        let next = next_due.map(|due| (due - store.clock().now()).to_std().unwrap_or_default().max(AGAIN));
        Ok(match (self.since.learn(&look, promoted), next) {
            (Round::Idle, Some(wait)) => Round::Until(Instant::now() + wait),
            (round, _) => round,
        })
    }

    async fn woken(&mut self) {
        self.scheduled.changed().await;
    }
}
