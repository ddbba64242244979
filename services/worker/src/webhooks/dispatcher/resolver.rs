//! Resolves names for the HTTP client. Every dial asks here, and dials only addresses that the guard allows.

use std::sync::Arc;

use foreman_webhook::Guard;
use foreman_webhook::guard::Asker;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::task::futures::TaskLocalFuture;
use tokio::task_local;

use super::destination::Destinations;

task_local! {
    /// Whose request the current task makes. The HTTP client tells its resolver only the name, and calls it in the task that
    /// makes the request.
    static ASKER: Asker;
}

/// Makes a request, whose look-ups come from this asker's share.
pub(super) fn on_behalf_of<F: Future>(asker: Asker, request: F) -> TaskLocalFuture<Asker, F> {
    ASKER.scope(asker, request)
}

/// Resolves anew for each connection. A kept connection stays with the address that was allowed when it was dialled, even if
/// its name leads elsewhere now.
#[derive(Debug, Clone)]
pub(super) struct GuardedResolver {
    guard: Guard,
    destinations: Destinations,
}

impl GuardedResolver {
    pub(super) fn new(guard: Guard, destinations: Destinations) -> Arc<Self> {
        Arc::new(Self { guard, destinations })
    }
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let Self { guard, destinations } = self.clone();
        // Should the client ever call us elsewhere, all those look-ups have one share.
        let asker = ASKER.try_get().unwrap_or_else(|_| Asker::of("nobody"));
        Box::pin(async move {
            // The client puts the URL's port in the place of 0.
            let addresses = guard.resolve(asker, name.as_str(), 0).await?;
            if let Some(first) = addresses.first() {
                destinations.learn(name.as_str(), first.ip());
            }
            let addresses: Addrs = Box::new(addresses.into_iter());
            Ok(addresses)
        })
    }
}
