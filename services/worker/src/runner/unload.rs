//! Tells the floor which models an operator wants out of this host's memory, and has Ollama unload one when the floor says
//! so. It must never forget an unload that Ollama has not answered: a worker that dies in between leaves it to the next
//! holder of the host.

use std::sync::Arc;
use std::time::Duration;

use foreman_ollama::{Client, FailureKind, LoadKey, ModelName, Route};
use foreman_runtime::{background_error, stalls};
use foreman_store::Store;
use foreman_store::wake::Topic;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::signal::{Signal, Unload};
use crate::worker::Worker;

/// A wake-up is seldom lost, and nobody's job waits for an unload.
const POLL: Duration = Duration::from_secs(2);

/// Ollama answers an unload at once, even while the model runs. Only while somebody else loads the model there it does not.
/// No load of ours begins meanwhile, so an Ollama that hangs must not keep us waiting for long.
const LIMIT: Duration = Duration::from_secs(10);

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
    match stalls::round("unload", stalls::USUAL, worker.store.unloads(host)).await {
        Ok(asked) => {
            let asked = asked
                .into_iter()
                .filter_map(|unload| Some((ModelName::parse(&unload.canonical).ok()?, unload.asked_at)));
            // Sending fails only when the floor has ended.
            _ = signals.send(Signal::UnloadsAsked(asked.collect()));
        }
        Err(error) => background_error!("unload", error),
    }
}

/// Has Ollama unload the model. Returns how that went, however it went.
pub(super) async fn carry_out(store: Store, ollama: Client, host: String, unload: Unload) -> Signal {
    let Unload { model, asked_at } = unload;
    let key = LoadKey::of_model(model);
    match timeout(LIMIT, ollama.unload(&key, Route::Generate)).await {
        Ok(Ok(())) => tracing::info!(model = %key, "Ollama was told to unload a model, as an operator asked"),
        Ok(Err(failure)) => match failure.kind() {
            // It is not there any more, so it is not loaded.
            FailureKind::ModelMissing => {}
            // Ollama would say the same again.
            FailureKind::Lasting => background_error!("unload", failure, model = %key),
            FailureKind::Unreachable | FailureKind::NotOllama | FailureKind::MayPass => {
                background_error!("unload", failure, model = %key);
                return Signal::UnloadFailed;
            }
        },
        Err(elapsed) => {
            background_error!("unload", elapsed, model = %key, "Ollama did not answer an unload in time");
            return Signal::UnloadFailed;
        }
    }
    let unload = foreman_store::Unload { canonical: key.model().to_string(), asked_at };
    match store.forget_unload(&host, &unload).await {
        Ok(()) => Signal::Unloaded,
        Err(error) => {
            background_error!("unload", error);
            Signal::UnloadFailed
        }
    }
}
