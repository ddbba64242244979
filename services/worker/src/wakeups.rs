//! Keeps wake-ups flowing between this process and the others; while they do not, everybody polls.

use std::sync::Arc;
use std::time::Duration;

use foreman_runtime::background_error;

use crate::worker::Worker;

/// Postgres is away, most likely; what waits for a wake-up polls at least as often.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Runs to the very end of the process: what is settled while it stops is news to the others too.
pub(crate) async fn run(worker: Arc<Worker>) {
    loop {
        let Err(error) = worker.store.wakeups().run(&worker.store).await;
        background_error!("wakeups", error, "wake-ups are interrupted; everybody polls meanwhile");
        tokio::time::sleep(RETRY_AFTER).await;
    }
}
