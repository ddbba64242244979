//! Watches the Ollama: whether it answers, which models it has, whether anything is loaded. What it has is published;
//! while it is away, what was published stays.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use foreman_ollama::{Client, Failure, InstalledModel, ModelName};
use foreman_runtime::background::one_line;
use foreman_runtime::{background_error, stalls};
use foreman_store::wake::{Topic, Wakeup};
use foreman_store::{Holder, PublishedModel};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::signal::Signal;
use crate::worker::Worker;

/// Between two looks for an Ollama that is away; somewhat less at random, so that workers do not look in step.
const PROBE: Duration = Duration::from_secs(1);
/// Between two looks at what it has, where nobody asks.
const INVENTORY: Duration = Duration::from_secs(30);
/// Between two looks at what is loaded.
const RESIDENT: Duration = Duration::from_secs(5);
/// After a publication that Postgres did not take.
const PUBLISH_AGAIN: Duration = Duration::from_secs(1);

pub(crate) struct HostWatch {
    pub worker: Arc<Worker>,
    pub ollama: Client,
    pub command: watch::Receiver<Option<Holder>>,
    pub signals: mpsc::UnboundedSender<Signal>,
    /// Rung by the floor where a request found nobody, or a model missing.
    pub doubt: Arc<Notify>,
}

impl HostWatch {
    pub(crate) async fn run(mut self) {
        let mut asked = self.worker.store.wakeups().subscribe(Topic::Inventory);
        let mut said = "";
        loop {
            let models = self.come_up(said).await;
            tracing::info!(ollama = %self.ollama.host(), models = models.len(), "Ollama answers");
            let failure = self.stay(models, &mut asked).await;
            // The floor is gone only at the very end.
            _ = self.signals.send(Signal::HostAway);
            said = failure.code();
            tracing::warn!(
                error = one_line(failure),
                "Ollama went away; nothing is claimed until it answers"
            );
            self.note_unreachable().await;
        }
    }

    /// Looks again and again until Ollama answers, and returns what it has. Says what it waits for, where that has
    /// not been `said` already.
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
            sleep(PROBE.mul_f64(rand::random_range(0.75..=1.0))).await;
        }
    }

    async fn look(&self) -> Result<Vec<InstalledModel>, Failure> {
        self.ollama.version().await?;
        self.ollama.tags().await
    }

    /// Publishes what there is, at once and whenever that may have changed, until Ollama cannot be reached.
    async fn stay(&mut self, mut models: Vec<InstalledModel>, asked: &mut Wakeup) -> Failure {
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
                    () = asked.changed() => break,
                    () = self.doubt.notified() => break,
                    // A new holder publishes under its own name.
                    Ok(()) = self.command.changed() => break,
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

    /// Tells the floor and the others what there is. Returns when to do so again if nothing happens.
    async fn publish(&self, models: &[InstalledModel]) -> Instant {
        let published = published(models);
        let names: BTreeSet<ModelName> = published.keys().cloned().collect();
        _ = self.signals.send(Signal::HostUp(names));
        let Some(holder) = self.command.borrow().clone() else {
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

    /// A look that fails without the host being away says nothing.
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
        let holder = self.command.borrow().clone();
        if let Some(holder) = holder
            && let Err(error) = watched(self.worker.store.note_unreachable(&holder)).await
        {
            background_error!("inventory", error);
        }
    }
}

/// Everything here that may hang: each question to Ollama or Postgres is a round of its own.
async fn watched<T>(question: impl Future<Output = T>) -> T {
    stalls::round("inventory", stalls::USUAL, question).await
}

/// One entry for each name as Ollama compares it; a name that it would not take itself cannot be asked for either.
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
