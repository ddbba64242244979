//! A statement that is tried until Postgres answers it. Each try waits a little longer than the one before, and has more
//! time for its bytes: what did not get over a thin line in time would not the next time either, and only take the
//! line's time again.

use std::time::Duration;

use foreman_runtime::background_error;
use foreman_store::{Store, StoreError};
use tokio::time::sleep;

/// The wait after a failure, doubled for each in a row.
const FIRST_DELAY: Duration = Duration::from_millis(50);
const LONGEST_DELAY: Duration = Duration::from_secs(2);

/// So many times the usual time for bytes at most: a silent connection to Postgres is given up some time, too.
const MOST_TIME: u32 = 32;

/// How often it has failed.
#[derive(Debug)]
pub(crate) struct Tries {
    delay: Duration,
    time: u32,
}

impl Default for Tries {
    fn default() -> Self {
        Self { delay: FIRST_DELAY, time: 1 }
    }
}

impl Tries {
    /// The handle for the next try.
    pub(crate) fn store(&self, store: &Store) -> Store {
        store.on_slower_line(self.time)
    }

    /// Tells of a failure, and waits until the next try is due.
    pub(crate) async fn failed(&mut self, task: &'static str, error: StoreError) {
        background_error!(task, error);
        sleep(self.delay).await;
        self.delay = (self.delay * 2).min(LONGEST_DELAY);
        self.time = (self.time * 2).min(MOST_TIME);
    }
}
