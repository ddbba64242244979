//! Writes rows alone. When Postgres refuses a batch, one row may be the cause, and nobody can tell which. Each row is then
//! written by itself, beside the loop that writes the batches, so that a row that must wait for its next try does not hold up
//! the others.

use std::sync::Arc;

use foreman_runtime::Shutdown;
use tokio::sync::Semaphore;

/// Rows of one loop that are written alone at the same time. The rest of a refused batch follows within moments, unless the
/// cause concerns every row. Then the loop waits here, and takes no further rows into memory.
const AT_ONCE: usize = 16;

/// The place where the rows of one loop are written alone. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Alone {
    shutdown: Shutdown,
    places: Arc<Semaphore>,
}

impl Alone {
    pub(crate) fn new(shutdown: &Shutdown) -> Self {
        Self { shutdown: shutdown.clone(), places: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Begins to write a row as soon as there is a place for it. The process waits for the row before it ends.
    pub(crate) async fn begin(&self, task: &'static str, write: impl Future<Output = ()> + Send + 'static) {
        let place = Arc::clone(&self.places).acquire_owned().await.expect("nobody closes it");
        self.shutdown.spawn_work(task, async move {
            write.await;
            drop(place);
        });
    }
}
