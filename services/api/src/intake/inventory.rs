//! Knows the models that hosts have published, and keeps them in memory. When a job names an unknown model, the hosts are
//! asked to list their models again before the job is refused. Requests that ask at the same time share one such question.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::http::StatusCode;
use foreman_ollama::{ModelName, ModelNameError};
use foreman_runtime::background::jittered;
use foreman_runtime::{background_error, stalls};
use foreman_store::{Inventory as Published, KnownModel, Store, StoreError, wake::Topic};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::refusal::Refusal;

/// The hosts have this long to list their models again.
const ASK_FOR: Duration = Duration::from_secs(2);

/// The time between two questions to the hosts. Without it, a flood of unknown names would make the hosts list their models
/// all the time.
const ASK_SPACING: Duration = Duration::from_millis(500);

/// While the hosts are asked, we look for their lists this often when no wake-up comes.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Without a wake-up, the models are read again after this time.
const REFRESH_EVERY: Duration = Duration::from_secs(5);

/// The codes of the refusals of a model.
pub(crate) const UNKNOWN: &str = "unknown_model";
pub(crate) const ONLY_EMBEDS: &str = "model_only_embeds";

/// Whether jobs of a model can run now.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Readiness {
    /// No host has the model, not even one that is away.
    pub(crate) is_gone: bool,
    /// A host that is up has the model.
    pub(crate) is_up: bool,
    /// And no operator has drained that host.
    pub(crate) takes_jobs: bool,
}

/// The models that hosts have published.
pub(crate) struct Inventory {
    store: Store,
    known: RwLock<Arc<Published>>,
    /// When the last question to the hosts ended, with or without their lists. Locked while the hosts are asked.
    asked: Mutex<Option<Instant>>,
}

impl Inventory {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, known: RwLock::default(), asked: Mutex::default() }
    }

    /// Reads the published models again and again, until `stop`.
    pub(crate) async fn run(&self, stop: &CancellationToken) {
        let mut published = self.store.wakeups().subscribe(Topic::Published);
        loop {
            if let Err(error) = stalls::round("inventory", stalls::USUAL, self.refresh()).await {
                background_error!("inventory", error, "the models could not be read");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = published.changed() => {}
                () = tokio::time::sleep(jittered(REFRESH_EVERY)) => {}
            }
        }
    }

    /// The model with this name, or a refusal if it is unknown or can neither chat nor generate.
    pub(crate) async fn find(&self, name: &ModelName, since: Instant) -> Result<KnownModel, Refusal> {
        runs_jobs(name, self.find_any(name, since).await?)
    }

    /// The model with this name, whatever it can. An unknown model is refused only after the hosts were asked later than `since`.
    pub(crate) async fn find_any(&self, name: &ModelName, since: Instant) -> Result<KnownModel, Refusal> {
        if let Some(model) = self.known().models.get(name.as_str()) {
            return Ok(model.clone());
        }
        self.ask_hosts(since).await?;
        let known = self.known();
        match known.models.get(name.as_str()) {
            Some(model) => Ok(model.clone()),
            None if known.is_published => Err(Refusal::unknown_model(name.as_str())),
            None => Err(Refusal::unavailable(
                "no_inventory",
                "no worker has listed its models yet; start foreman-worker beside an Ollama and try again",
            )
            .retry_after(Duration::from_secs(5))),
        }
    }

    /// The name of a model as `/api/tags` gives it. For a model that no host has any more: the name as Ollama compares it.
    pub(crate) fn label(&self, name: &str) -> String {
        self.known().models.get(name).map_or_else(|| name.to_owned(), |model| model.label.clone())
    }

    /// Whether a host that is up has this model, and whether such a host takes jobs, as it was last read. `None` before the
    /// first reading.
    pub(crate) fn readiness(&self, name: &str) -> Option<Readiness> {
        let known = self.known();
        known.read_at?;
        let model = known.models.get(name);
        Some(Readiness {
            is_gone: known.is_published && model.is_none(),
            is_up: model.is_some_and(|model| model.is_up),
            takes_jobs: model.is_some_and(|model| model.takes_jobs),
        })
    }

    fn known(&self) -> Arc<Published> {
        Arc::clone(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }

    async fn refresh(&self) -> Result<Arc<Published>, StoreError> {
        let published = Arc::new(self.store.inventory().await?);
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&published);
        Ok(published)
    }

    /// Asks the hosts to list their models, and returns when every live host has done so or the time is up. Does nothing if
    /// they were asked after `since` already.
    async fn ask_hosts(&self, since: Instant) -> Result<(), StoreError> {
        let mut asked = self.asked.lock().await;
        if let Some(last) = *asked {
            // Another request has asked since, perhaps while this one waited for the lock.
            if last >= since {
                return Ok(());
            }
            sleep_until(last + ASK_SPACING).await;
        }
        // Subscribe before the first look, so that a list which comes right after it is not lost.
        let mut published = self.store.wakeups().subscribe(Topic::Published);
        let deadline = Instant::now() + ASK_FOR;
        let mut known = self.refresh().await?;
        let before = known.read_at;
        self.store.wakeups().tell(Topic::Inventory);
        // Without a live host, no list will come.
        while known.live_since.is_some() && known.live_since <= before && Instant::now() < deadline {
            let wait = deadline.min(Instant::now() + LOOK_EVERY);
            // Look again after a wake-up as well as after the time.
            let _ = timeout_at(wait, published.changed()).await;
            known = self.refresh().await?;
        }
        *asked = Some(Instant::now());
        Ok(())
    }
}

fn runs_jobs(name: &ModelName, model: KnownModel) -> Result<KnownModel, Refusal> {
    if model.completes {
        return Ok(model);
    }
    let error = format!(
        "the model {name} only embeds; use it with /api/embed, or name one that can chat or generate"
    );
    Err(Refusal::bad_request(ONLY_EMBEDS, error))
}

impl Refusal {
    /// No host has a model of this name.
    pub(crate) fn unknown_model(name: &str) -> Self {
        let error = format!("no host has the model {name}; pull it there with `ollama pull {name}`");
        Self::new(StatusCode::NOT_FOUND, UNKNOWN, error)
    }

    /// No host can have a model of this name.
    pub(crate) fn no_model_name(error: ModelNameError) -> Self {
        let error = format!(
            "the name of the model {error}; write it as `ollama list` shows it, such as llama3.2:3b, and in a path `/` as `%2F`"
        );
        Self::new(StatusCode::NOT_FOUND, UNKNOWN, error)
    }
}
