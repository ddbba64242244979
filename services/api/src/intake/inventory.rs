//! Which models may be asked for: what hosts have published, kept in memory. A miss has the hosts look again before it
//! is believed, once for all who ask at the same time.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::http::StatusCode;
use foreman_ollama::ModelName;
use foreman_runtime::background::jittered;
use foreman_runtime::{background_error, stalls};
use foreman_store::{Inventory as Published, KnownModel, Store, StoreError, wake::Topic};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::refusal::Refusal;

/// How long the hosts have to publish anew.
const ASK_FOR: Duration = Duration::from_secs(2);

/// Between two times that hosts are asked: a flood of unknown names must not have them list their models forever.
const ASK_SPACING: Duration = Duration::from_millis(500);

/// How often we look while hosts are being asked, if no wake-up tells us.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How old what we know may be, without a wake-up.
const REFRESH_EVERY: Duration = Duration::from_secs(5);

/// The models that hosts have published.
pub(crate) struct Inventory {
    store: Store,
    known: RwLock<Arc<Published>>,
    /// When the hosts were last asked and had answered, or would not. Locked while they are being asked.
    asked: Mutex<Option<Instant>>,
}

impl Inventory {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, known: RwLock::default(), asked: Mutex::default() }
    }

    /// Keeps what is known fresh, until `stop`.
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

    /// A model that can run jobs. What hosts were asked for after `since` is believed, also where it is missing.
    pub(crate) async fn find(&self, name: &ModelName, since: Instant) -> Result<KnownModel, Refusal> {
        if let Some(model) = self.known().models.get(name.as_str()) {
            return runs_jobs(name, model);
        }
        self.ask_hosts(since).await?;
        let known = self.known();
        match known.models.get(name.as_str()) {
            Some(model) => runs_jobs(name, model),
            None if known.is_published => Err(unknown(name)),
            None => Err(Refusal::unavailable(
                "no_inventory",
                "no worker has listed its models yet; start foreman-worker beside an Ollama and try again",
            )
            .retry_after(Duration::from_secs(5))),
        }
    }

    /// The name of a model as `/api/tags` gives it; of one that no host has any more, the name as Ollama compares it.
    pub(crate) fn label(&self, name: &str) -> String {
        self.known().models.get(name).map_or_else(|| name.to_owned(), |model| model.label.clone())
    }

    fn known(&self) -> Arc<Published> {
        Arc::clone(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }

    async fn refresh(&self) -> Result<Arc<Published>, StoreError> {
        let published = Arc::new(self.store.inventory().await?);
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&published);
        Ok(published)
    }

    /// Returns once every host that can has published after `since`.
    async fn ask_hosts(&self, since: Instant) -> Result<(), StoreError> {
        let mut asked = self.asked.lock().await;
        if let Some(last) = *asked {
            // Somebody's question was answered since, perhaps while we waited for our turn.
            if last >= since {
                return Ok(());
            }
            sleep_until(last + ASK_SPACING).await;
        }
        // Before the first look, so that an answer right after it is not lost.
        let mut published = self.store.wakeups().subscribe(Topic::Published);
        let deadline = Instant::now() + ASK_FOR;
        let mut known = self.refresh().await?;
        let before = known.read_at;
        self.store.wakeups().tell(Topic::Inventory);
        // Without a live host there is nobody to wait for.
        while known.live_since.is_some() && known.live_since <= before && Instant::now() < deadline {
            let wait = deadline.min(Instant::now() + LOOK_EVERY);
            // Whichever comes first: both mean to look again.
            let _ = timeout_at(wait, published.changed()).await;
            known = self.refresh().await?;
        }
        *asked = Some(Instant::now());
        Ok(())
    }
}

fn runs_jobs(name: &ModelName, model: &KnownModel) -> Result<KnownModel, Refusal> {
    if model.completes {
        return Ok(model.clone());
    }
    let error = format!(
        "the model {name} only embeds; use it with /api/embed, or name one that can chat or generate"
    );
    Err(Refusal::bad_request("model_only_embeds", error))
}

fn unknown(name: &ModelName) -> Refusal {
    let error = format!("no host has the model {name}; pull it there with `ollama pull {name}`");
    Refusal::new(StatusCode::NOT_FOUND, "unknown_model", error)
}
