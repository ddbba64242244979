//! Tells the floor what an operator wants of this host: whether it is drained, and which models are to be unloaded. Each change
//! sends a wake-up; the poll finds one whose wake-up was lost. The floor need not know of a drain for jobs to stay away,
//! because the claim itself reads the mark: it hands back what it holds, and does not ask in vain.

use std::sync::Arc;
use std::time::Duration;

use foreman_ollama::ModelName;
use foreman_runtime::{background_error, stalls};
use foreman_store::wake::Topic;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::signal::Signal;
use crate::worker::Worker;

/// A wake-up is seldom lost, and a late look costs no job its order.
const POLL: Duration = Duration::from_secs(2);

pub(super) async fn run(worker: Arc<Worker>, signals: mpsc::UnboundedSender<Signal>) {
    let mut woken = worker.store.wakeups().subscribe(Topic::Host);
    loop {
        look(&worker, &signals).await;
        _ = timeout(POLL, woken.changed()).await;
    }
}

/// Looks once. A new holder does so before it claims anything.
pub(super) async fn look(worker: &Worker, signals: &mpsc::UnboundedSender<Signal>) {
    let host = worker.config.host.id.as_str();
    match stalls::round("drain", stalls::USUAL, worker.store.is_drained(host)).await {
        // Sending fails only when the floor has ended, here and below.
        Ok(drained) => _ = signals.send(Signal::Drained(drained)),
        Err(error) => background_error!("drain", error),
    }
    match stalls::round("unload", stalls::USUAL, worker.store.unloads(host)).await {
        Ok(asked) => {
            let asked = asked
                .into_iter()
                .filter_map(|unload| Some((ModelName::parse(&unload.canonical).ok()?, unload.asked_at)));
            _ = signals.send(Signal::UnloadsAsked(asked.collect()));
        }
        Err(error) => background_error!("unload", error),
    }
}
