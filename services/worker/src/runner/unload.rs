//! Has Ollama unload a model, as an operator asked. It must never forget an unload that Ollama has not answered: a worker that
//! dies in between leaves it to the next holder of the host.

use std::time::Duration;

use foreman_ollama::{Client, FailureKind, LoadKey, Route};
use foreman_runtime::background_error;
use foreman_store::Store;
use tokio::time::timeout;

use super::signal::{Signal, Unload};

/// Ollama answers an unload at once, even while the model runs. Only while somebody else loads the model there it does not.
/// No load of ours begins meanwhile, so an Ollama that hangs must not keep us waiting for long.
const LIMIT: Duration = Duration::from_secs(10);

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
