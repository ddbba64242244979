//! Jobs that waited for a time, a backoff or their submitter's `run_at`, become ready when it comes.

use std::sync::Arc;
use std::time::Duration;

use foreman_runtime::background::{self, Round, Rounds};
use foreman_store::{StoreError, wake::Topic};
use tokio::time::Instant;

use crate::alarm::Alarm;
use crate::worker::Worker;

/// Jobs a round.
const BATCH: u32 = 1_000;

/// A job may be scheduled for sooner than what we wait for, without a word to us.
const POLL: Duration = Duration::from_millis(500);

pub(super) async fn run(worker: Arc<Worker>) {
    let alarm = Arc::new(Alarm::new());
    let promotion = Promotion { worker: Arc::clone(&worker), alarm: Arc::clone(&alarm) };
    tokio::select! {
        () = background::repeat(promotion, worker.shutdown.soft(), &alarm.wake, POLL) => {}
        never = alarm.ring() => match never {},
    }
}

struct Promotion {
    worker: Arc<Worker>,
    alarm: Arc<Alarm>,
}

impl Rounds for Promotion {
    const TASK: &'static str = "promote";
    type Error = StoreError;

    async fn run_once(&mut self) -> Result<Round, StoreError> {
        let store = &self.worker.store;
        let (promoted, next_due) = store.promote(BATCH.into()).await?;
        if promoted > 0 {
            self.worker.wakeups.tell(Topic::Ready);
        }
        // Where our clock is off the poll comes first, or one round finds nothing yet.
        let next = next_due.and_then(|due| (due - store.clock().now()).to_std().ok());
        self.alarm.set(next.map(|wait| Instant::now() + wait));
        Ok(if promoted >= BATCH.into() { Round::More } else { Round::Idle })
    }
}
