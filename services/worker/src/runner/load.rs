//! One load of a model. Every attempt that needs the model has a handle to the load and waits for it.
//!
//! The load begins when the first attempt waits, and then goes on in a task of its own, whoever still waits. Dropping
//! the last handle closes the connection, and Ollama then aborts the load. By then Ollama may have unloaded the model
//! that was resident before. So the last handle must be dropped only when no job wants this load any more.

use std::sync::Arc;
use std::time::Duration;

use foreman_ollama::{Client, Failure, Route, RunningModel};
use foreman_runtime::background_error;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use super::signal::Signal;
use crate::scheduling::key::Key;

/// How long to wait for Ollama's word about what it has loaded. The attempts wait as long.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub key: Key,
    /// The route whose endpoint the preload uses. A model may support only one kind of route, and then fails on the
    /// other.
    pub route: Route,
    client: Client,
    limit: Duration,
    signals: UnboundedSender<Signal>,
    outcome: Shared<BoxFuture<'static, Result<(), LoadFailure>>>,
}

/// Why a load failed. Each attempt that waited gets a copy.
#[derive(Debug, Clone)]
pub(crate) enum LoadFailure {
    Ollama(Arc<Failure>),
    TimedOut(Duration),
}

impl Load {
    /// Makes a load, before which these others are unloaded. It begins when the first attempt waits for it, and tells the
    /// floor when that is and how it ended.
    pub(crate) fn new(
        client: Client,
        key: Key,
        route: Route,
        limit: Duration,
        unload: Vec<Key>,
        signals: UnboundedSender<Signal>,
    ) -> Self {
        let (asked, to_floor, ollama) = (Arc::clone(&key), signals.clone(), client.clone());
        let load = async move {
            // Sending fails only when the floor has ended. Then no job is left that needs the model.
            _ = to_floor.send(Signal::LoadBegins { key: Arc::clone(&asked) });
            let unload_and_load = async {
                for victim in unload {
                    // If Ollama cannot unload it, the load itself tells whether there is room.
                    if let Err(failure) = ollama.unload(&victim, Route::Generate).await {
                        background_error!("unload", failure, model = %victim.model());
                    }
                }
                let began = Instant::now();
                ollama.preload(&asked, route).await.map(|()| began.elapsed())
            };
            let outcome = match timeout(limit, unload_and_load).await {
                Ok(outcome) => outcome.map_err(|failure| LoadFailure::Ollama(Arc::new(failure))),
                Err(_elapsed) => Err(LoadFailure::TimedOut(limit)),
            };
            let told = match outcome {
                Ok(took) => {
                    let listed = listed(&ollama).await;
                    Signal::Loaded { took, context: context_of(&asked, &listed), listed, key: asked }
                }
                Err(_) => Signal::LoadFailed { key: asked },
            };
            _ = to_floor.send(told);
            outcome.map(|_took| ())
        };
        let outcome = async {
            let task = AbortOnDropHandle::new(tokio::spawn(load.in_current_span()));
            task.await.expect("a load never panics, and is not aborted while somebody waits")
        };
        Self { key, route, client, limit, signals, outcome: outcome.boxed().shared() }
    }

    /// Makes a load of the same key on another route.
    pub(crate) fn on(&self, route: Route) -> Self {
        let Self { key, client, limit, signals, .. } = self.clone();
        Self::new(client, key, route, limit, Vec::new(), signals)
    }

    /// Waits until the load has ended, well or badly.
    pub(crate) async fn done(&self) -> Result<(), LoadFailure> {
        self.outcome.clone().await
    }
}

/// What Ollama lists as loaded; nothing if it does not say so soon.
pub(super) async fn listed(ollama: &Client) -> Vec<RunningModel> {
    timeout(LOOK, ollama.ps()).await.ok().and_then(Result::ok).unwrap_or_default()
}

/// The length of the context of a runner that was just loaded. `None` if Ollama does not tell it plainly: it lists
/// several names of the same weights under only one of them.
fn context_of(runner: &Key, listed: &[RunningModel]) -> Option<i64> {
    let its = match listed {
        [only] => Some(only),
        several => several.iter().find(|model| model.is(runner.model())),
    };
    its?.context()
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    use super::*;
    use crate::scheduling::samples::key;

    #[tokio::test]
    async fn a_load_that_hangs_ends_in_time_although_nobody_waits_any_more() {
        foreman_runtime::tls::install();
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = silent.local_addr().unwrap().to_string().parse().unwrap();
        let (signals, mut heard) = mpsc::unbounded_channel();
        let (client, limit) = (Client::new(host).unwrap(), Duration::from_millis(50));
        let load = Load::new(client, key("tiny-a"), Route::Chat, limit, vec![key("tiny-b")], signals);
        assert!(timeout(Duration::from_millis(1), load.done()).await.is_err());
        assert!(matches!(heard.recv().await, Some(Signal::LoadBegins { .. })));
        assert!(matches!(heard.recv().await, Some(Signal::LoadFailed { .. })));
        assert!(matches!(load.done().await, Err(LoadFailure::TimedOut(_))));
    }
}
