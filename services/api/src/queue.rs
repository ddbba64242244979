//! The queue as a whole, read for everybody together: a reading costs the more the longer the queue is, and must not cost
//! the database more because many ask.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use foreman_store::{QueueShare, Store, StoreError};
use tokio::sync::Mutex;
use tokio::time::Instant;

/// A reading is at least so fresh that nobody needs a new one yet.
const FRESH: Duration = Duration::from_secs(1);

/// Between two readings lies so many times what the last one took: they have at most the twentieth part of one of
/// Postgres' processes. With a million jobs waiting, a reading of a second is good for twenty.
const REST: u32 = 19;

/// What was read last.
#[derive(Debug, Clone)]
pub(crate) struct Reading {
    pub(crate) as_of: DateTime<Utc>,
    pub(crate) shares: Arc<Vec<QueueShare>>,
    good_until: Instant,
}

/// Reads the queue when somebody asks and the last reading is no longer good.
pub(crate) struct Queue {
    store: Store,
    /// Locked while it is read: one reading serves all who wait for it.
    last: Mutex<Option<Reading>>,
}

impl Queue {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, last: Mutex::default() }
    }

    pub(crate) async fn read(&self) -> Result<Reading, StoreError> {
        let mut last = self.last.lock().await;
        if let Some(reading) = last.as_ref().filter(|reading| Instant::now() < reading.good_until) {
            return Ok(reading.clone());
        }
        let (began, as_of) = (Instant::now(), self.store.clock().now());
        let shares = Arc::new(self.store.queue().await?);
        let rest = FRESH.max(began.elapsed() * REST);
        let reading = Reading { as_of, shares, good_until: Instant::now() + rest };
        Ok(last.insert(reading).clone())
    }
}
