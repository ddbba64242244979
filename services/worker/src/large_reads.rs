//! Reads of many bytes from Postgres: bodies of jobs, artifacts for webhooks. They go one after the other, so that on a thin
//! line the first arrives soon and none runs out of time because of the others. Small values never wait here: they come with
//! the statement that finds them.

use std::sync::Arc;

use foreman_store::{Store, StoreError};
use tokio::sync::Semaphore;

use crate::tries::Tries;

/// Reads of at least this many bytes go one at a time. On a line of 1 MiB/s each takes seconds.
const LARGE: u64 = 1 << 20;

/// Smaller reads at the same time: enough that the bytes of one use the round trip of another.
const AT_ONCE: usize = 2;

/// All of them go through this. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct LargeReads {
    store: Store,
    medium: Arc<Semaphore>,
    large: Arc<Semaphore>,
}

impl LargeReads {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, medium: Arc::new(Semaphore::new(AT_ONCE)), large: Arc::new(Semaphore::new(1)) }
    }

    /// Runs a statement that brings this many bytes until Postgres answers it, with more time at each try. An error that is
    /// returned would come again. Safe to drop at any moment.
    pub(crate) async fn read<T, F: Future<Output = Result<T, StoreError>>>(
        &self,
        task: &'static str,
        bytes: u64,
        statement: impl Fn(Store) -> F,
    ) -> Result<T, StoreError> {
        let line = if bytes < LARGE { &self.medium } else { &self.large };
        let _turn = line.acquire().await.expect("nobody closes them");
        let mut tries = Tries::default();
        loop {
            match statement(tries.store(&self.store)).await {
                Ok(brought) => return Ok(brought),
                Err(error) => tries.failed(task, error).await?,
            }
        }
    }
}
