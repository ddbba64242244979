//! Watches Ollama: whether it answers, which models it has, and whether any model is loaded. It tells the floor, and
//! publishes the models in Postgres. While Ollama is away, the published models must stay, so that the api goes on
//! taking jobs for them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use foreman_ollama::{Client, Failure, InstalledModel, ModelName};
use foreman_runtime::background::jittered;
use foreman_runtime::background::one_line;
use foreman_runtime::{background_error, stalls};
use foreman_store::wake::{Topic, Wakeup};
use foreman_store::{Holder, PublishedModel};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::signal::Signal;
use crate::worker::Worker;

/// The longest wait between two looks for an Ollama that is away. Each wait is shorter by a random part, so that
/// workers do not look in step.
const PROBE: Duration = Duration::from_secs(1);
/// The wait between two looks at the list of models, unless somebody asks for one sooner.
const INVENTORY: Duration = Duration::from_secs(30);
/// The wait between two looks at the loaded models.
const RESIDENT: Duration = Duration::from_secs(5);
/// The wait before publishing again when Postgres failed to store the models.
const PUBLISH_AGAIN: Duration = Duration::from_secs(1);

pub(crate) struct HostWatch {
    pub worker: Arc<Worker>,
    pub ollama: Client,
    /// This worker's host lease. `None` while another worker has the host, or still has jobs there.
    pub holder: watch::Receiver<Option<Holder>>,
    pub signals: mpsc::UnboundedSender<Signal>,
    /// The floor asks for a look at once, because a request did not reach Ollama or did not find its model.
    pub look_now: Arc<Notify>,
}

impl HostWatch {
    pub(crate) async fn run(mut self) {
        let mut woken = self.worker.store.wakeups().subscribe(Topic::Inventory);
        let mut said = "";
        loop {
            let models = self.come_up(said).await;
            tracing::info!(ollama = %self.ollama.host(), models = models.len(), "Ollama answers");
            let failure = self.stay(models, &mut woken).await;
            // Sending fails only when the floor has ended, and then this task is stopped as well.
            _ = self.signals.send(Signal::HostAway);
            said = failure.code();
            tracing::warn!(
                error = one_line(failure),
                "Ollama went away; nothing is claimed until it answers"
            );
            self.note_unreachable().await;
        }
    }

    /// Looks again and again until Ollama answers, and returns its models. Logs each new reason why Ollama does not
    /// answer; `said` is the last reason that was logged.
    async fn come_up(&self, mut said: &'static str) -> Vec<InstalledModel> {
        loop {
            let failure = match watched(self.look()).await {
                Ok(models) => return models,
                Err(failure) => failure,
            };
            if said != failure.code() {
                said = failure.code();
                tracing::warn!(
                    error = one_line(failure),
                    "waiting for Ollama; nothing is claimed until it answers"
                );
            }
            sleep(jittered(PROBE)).await;
        }
    }

    async fn look(&self) -> Result<Vec<InstalledModel>, Failure> {
        self.ollama.version().await?;
        self.ollama.tags().await
    }

    /// Publishes the models now and whenever they may have changed. Returns when Ollama cannot be reached.
    async fn stay(&mut self, mut models: Vec<InstalledModel>, woken: &mut Wakeup) -> Failure {
        let mut look_at_loaded = Instant::now() + RESIDENT;
        loop {
            let publish_again = self.publish(&models).await;
            loop {
                let looked = tokio::select! {
                    () = sleep_until(look_at_loaded) => {
                        look_at_loaded = Instant::now() + RESIDENT;
                        watched(self.look_at_loaded()).await
                    }
                    () = sleep_until(publish_again) => break,
                    () = woken.changed() => break,
                    () = self.look_now.notified() => break,
                    // A new host lease needs a publication of its own.
                    Ok(()) = self.holder.changed() => break,
                };
                if let Err(failure) = looked {
                    return failure;
                }
            }
            match watched(self.ollama.tags()).await {
                Ok(listed) => models = listed,
                Err(failure) if failure.is_of_host() => return failure,
                Err(failure) => background_error!("inventory", failure),
            }
        }
    }

    /// Tells the floor which models there are, and publishes them if this worker holds the host. Returns when to
    /// publish again if nothing happens before.
    async fn publish(&self, models: &[InstalledModel]) -> Instant {
        let published = published(models);
        let names: BTreeSet<ModelName> = published.keys().cloned().collect();
        _ = self.signals.send(Signal::HostUp(names));
        let Some(holder) = self.holder.borrow().clone() else {
            return Instant::now() + INVENTORY;
        };
        let models: Vec<_> = published.into_values().collect();
        let publication = self.worker.store.publish_models(&holder, &models);
        match watched(publication).await {
            Ok(_held) => Instant::now() + INVENTORY,
            Err(error) => {
                background_error!("inventory", error);
                Instant::now() + PUBLISH_AGAIN
            }
        }
    }

    /// Tells the floor when no model is loaded. Fails only if Ollama is away; any other failure is only logged.
    async fn look_at_loaded(&self) -> Result<(), Failure> {
        match self.ollama.ps().await {
            Ok(loaded) if loaded.is_empty() => {
                _ = self.signals.send(Signal::NothingResident);
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(failure) if failure.is_of_host() => Err(failure),
            Err(failure) => {
                background_error!("inventory", failure);
                Ok(())
            }
        }
    }

    async fn note_unreachable(&self) {
        let holder = self.holder.borrow().clone();
        if let Some(holder) = holder
            && let Err(error) = watched(self.worker.store.note_unreachable(&holder)).await
        {
            background_error!("inventory", error);
        }
    }
}

/// Reports when a question to Ollama or Postgres hangs. Each question here counts as a round of its own.
async fn watched<T>(question: impl Future<Output = T>) -> T {
    stalls::round("inventory", stalls::USUAL, question).await
}

/// One entry for each name in the form in which Ollama compares names. Names that Ollama itself would refuse are left
/// out, because no job can ask for them.
fn published(models: &[InstalledModel]) -> BTreeMap<ModelName, PublishedModel> {
    let named = models.iter().filter_map(|model| Some((ModelName::parse(&model.name).ok()?, model)));
    named
        .map(|(name, model)| {
            let canonical = name.as_str().to_owned();
            let completes = !model.embeds_only();
            (name, PublishedModel { canonical, label: model.name.clone(), completes })
        })
        .collect()
}
