//! Reads of many bytes from Postgres: bodies of jobs, artifacts for webhooks. On a thin line these go one after the other,
//! so that the first is there soon and none of them runs out of time for the others' sake. What is small never waits
//! here: it comes with the statement that finds it.

use std::sync::Arc;

use foreman_store::{Store, StoreError};
use tokio::sync::Semaphore;

use crate::tries::Tries;

/// From this size on, in bytes, a read waits for all others of its kind. On a line of 1 MiB/s it takes seconds.
const LARGE: u64 = 1 << 20;

/// Smaller ones at the same time: enough that the round trip of one is spent on the bytes of another.
const AT_ONCE: usize = 2;

/// The one place through which they go. Cheap to clone.
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

    /// Runs a statement that brings so many bytes until Postgres answers it, with more time from try to try. An error is one
    /// that would come again. Safe to drop at any moment.
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
