//! Tells the floor which of its leases somebody asked to cancel. A cancel sends a wake-up; the poll finds the cancels
//! whose wake-up was lost.

use std::sync::Arc;
use std::time::Duration;

use foreman_runtime::{background_error, stalls};
use foreman_store::wake::Topic;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::signal::Signal;
use crate::worker::Worker;

/// A running job must stop within a second of its cancel. The poll takes half of that.
const POLL: Duration = Duration::from_millis(500);

pub(crate) async fn run(worker: Arc<Worker>, signals: mpsc::UnboundedSender<Signal>) {
    let mut woken = worker.store.wakeups().subscribe(Topic::Cancel);
    loop {
        if let Some(id) = worker.liveness.id() {
            match stalls::round("cancel", stalls::USUAL, worker.store.cancelled_leases(id)).await {
                Ok(numbers) if numbers.is_empty() => {}
                Ok(numbers) => {
                    if signals.send(Signal::CancelAsked(numbers)).is_err() {
                        return;
                    }
                }
                Err(error) => background_error!("cancel", error),
            }
        }
        _ = timeout(POLL, woken.changed()).await;
    }
}
