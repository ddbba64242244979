//! A statement that is tried until Postgres takes or refuses it. Each try waits a little longer than the one before, and
//! has more time for its bytes: what did not get over a thin line in time would not the next time either, and only take
//! the line's time again.

use std::time::Duration;

use foreman_runtime::background_error;
use foreman_store::{Store, StoreError};
use tokio::time::sleep;

/// The wait after a failure, doubled for each in a row.
const FIRST_DELAY: Duration = Duration::from_millis(50);
const LONGEST_DELAY: Duration = Duration::from_secs(2);

/// So many times the usual time for bytes at most: a silent connection to Postgres is given up some time, too.
const MOST_TIME: u32 = 32;

/// Tries of a row alone, over most of a second: an error of no known kind may pass by itself.
const TRIES_ALONE: u32 = 5;

/// How often it has failed, and how many refusals in a row are believed.
#[derive(Debug)]
pub(crate) struct Tries {
    delay: Duration,
    time: u32,
    refused: u32,
    believed: u32,
}

impl Default for Tries {
    /// The first refusal is believed.
    fn default() -> Self {
        Self { delay: FIRST_DELAY, time: 1, refused: 0, believed: 1 }
    }
}

impl Tries {
    /// For a row alone, which has nothing left to hope for once it is refused.
    pub(crate) fn of_a_row_alone() -> Self {
        Self { believed: TRIES_ALONE, ..Self::default() }
    }

    /// The handle for the next try.
    pub(crate) fn store(&self, store: &Store) -> Store {
        store.on_slower_line(self.time)
    }

    /// Tells of a failure, and waits until the next try is due. An error is a refusal that is believed: the caller tells of it.
    /// Further tries after that have as many refusals before them again.
    pub(crate) async fn failed(&mut self, task: &'static str, error: StoreError) -> Result<(), StoreError> {
        match error {
            // The values will be the same the next time.
            StoreError::BadData(_) => return Err(error),
            StoreError::Other(_) => self.refused += 1,
            _ => {}
        }
        if self.refused == self.believed {
            self.refused = 0;
            return Err(error);
        }
        background_error!(task, error);
        sleep(self.delay).await;
        self.delay = (self.delay * 2).min(LONGEST_DELAY);
        self.time = (self.time * 2).min(MOST_TIME);
        Ok(())
    }
}
