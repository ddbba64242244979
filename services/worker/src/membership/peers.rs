//! Finds the dead workers.

use std::sync::{Mutex, PoisonError};

use foreman_store::{Heartbeat, Store, StoreError, WorkerId};
use tokio::time::Instant;

use crate::membership::silences::Silences;

/// All that this process has seen of the other workers' rows. The loops that ask for dead workers share it, so each
/// look serves all.
#[derive(Debug, Default)]
pub(crate) struct Peers(Mutex<Silences<WorkerId>>);

impl Peers {
    /// Looks at every worker's row, and returns the rows of dead workers. A statement that acts on such a row must
    /// prove that the row has not changed since.
    pub(crate) async fn dead(&self, store: &Store) -> Result<Vec<Heartbeat<WorkerId>>, StoreError> {
        let asked = Instant::now();
        let heartbeats = store.heartbeats().await?;
        let mut silences = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(silences.look(heartbeats, asked, Instant::now()))
    }
}
