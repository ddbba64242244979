//! Tries a statement until Postgres takes or refuses it. Each try waits a little longer than the one before, and has more time
//! for its bytes: where a thin line was too slow once, the same time would not be enough the next time either.

use std::time::Duration;

use foreman_runtime::background_error;
use foreman_store::{Store, StoreError};
use tokio::time::sleep;

/// The wait after a failure, doubled for each in a row.
const FIRST_DELAY: Duration = Duration::from_millis(50);
const LONGEST_DELAY: Duration = Duration::from_secs(2);

/// At most this many times the usual time for bytes, so that a silent connection to Postgres is given up at last.
const MOST_TIME: u32 = 32;

/// Tries of a row that is written alone. They take most of a second, because an error of no known kind may pass by itself.
const TRIES_ALONE: u32 = 5;

/// How often the statement has failed, and how many refusals must come before one is believed.
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
    /// For a row that is written alone. There is no smaller batch to try after this one.
    pub(crate) fn of_a_row_alone() -> Self {
        Self { believed: TRIES_ALONE, ..Self::default() }
    }

    /// The handle for the next try.
    pub(crate) fn store(&self, store: &Store) -> Store {
        store.on_slower_line(self.time)
    }

    /// Logs a failure, and waits until the next try is due. A refusal that is believed is returned instead, and the caller
    /// logs it. After that the refusals are counted from the start.
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
