//! Keeps Postgres' statistics of the tables from falling far behind: see [`Store::analyse_outgrown`].
//!
//! [`Store::analyse_outgrown`]: foreman_store::Store::analyse_outgrown

use std::sync::Arc;
use std::time::Duration;

use foreman_runtime::background::{self, Round, Rounds};
use foreman_store::StoreError;

use crate::worker::Worker;

/// A table that fills up is planned badly for no longer than this; a look costs about a millisecond.
const EVERY: Duration = Duration::from_secs(5);

pub(super) async fn run(worker: Arc<Worker>) {
    let analysis = Analysis { worker: Arc::clone(&worker) };
    background::repeat(analysis, worker.shutdown.soft(), EVERY).await;
}

struct Analysis {
    worker: Arc<Worker>,
}

impl Rounds for Analysis {
    const TASK: &'static str = "analyse";
    /// It goes over whole tables.
    const LAWFUL: Duration = Duration::from_secs(3_600);
    type Error = StoreError;

    async fn run_once(&mut self) -> Result<Round, StoreError> {
        let tables = self.worker.store.analyse_outgrown().await?;
        if tables > 0 {
            tracing::debug!(tables, "analysed tables that had grown");
        }
        Ok(Round::Idle)
    }
}
