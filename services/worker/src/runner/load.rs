//! One load of a model, and everybody who waits for it.
//!
//! It begins when the first of them waits and is hung up on when the last handle to it goes. Hanging up aborts the load
//! and still throws out what was resident before: whoever drops the last handle must know that nobody wants it.

use std::sync::Arc;
use std::time::Duration;

use foreman_ollama::{Client, Failure, Route};
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{Instant, timeout};

use super::signal::Signal;
use crate::scheduling::key::Key;

#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub key: Key,
    /// The kind of route it is asked for on. A model may know only one of them, and then says so.
    pub route: Route,
    client: Client,
    limit: Duration,
    signals: UnboundedSender<Signal>,
    outcome: Shared<BoxFuture<'static, Result<(), LoadFailure>>>,
}

/// Why a model is not loaded, for each that waited.
#[derive(Debug, Clone)]
pub(crate) enum LoadFailure {
    Ollama(Arc<Failure>),
    TimedOut(Duration),
}

impl Load {
    /// A load that begins when somebody waits for it, and tells the floor how it went.
    pub(crate) fn new(
        client: Client,
        key: Key,
        route: Route,
        limit: Duration,
        signals: UnboundedSender<Signal>,
    ) -> Self {
        let (asked, to_floor, ollama) = (Arc::clone(&key), signals.clone(), client.clone());
        let outcome = async move {
            let began = Instant::now();
            let outcome = match timeout(limit, ollama.preload(&asked, route)).await {
                Ok(outcome) => outcome.map_err(|failure| LoadFailure::Ollama(Arc::new(failure))),
                Err(_elapsed) => Err(LoadFailure::TimedOut(limit)),
            };
            let told = match outcome {
                Ok(()) => Signal::Loaded { key: asked, took: began.elapsed() },
                Err(_) => Signal::LoadFailed { key: asked },
            };
            // The floor is gone only when nothing is claimed any more, and then nobody needs to know.
            _ = to_floor.send(told);
            outcome
        };
        Self { key, route, client, limit, signals, outcome: outcome.boxed().shared() }
    }

    /// A load of the same key on another kind of route.
    pub(crate) fn on(&self, route: Route) -> Self {
        let Self { key, client, limit, signals, .. } = self.clone();
        Self::new(client, key, route, limit, signals)
    }

    /// Returns once the model is loaded, or not.
    pub(crate) async fn done(&self) -> Result<(), LoadFailure> {
        self.outcome.clone().await
    }
}
