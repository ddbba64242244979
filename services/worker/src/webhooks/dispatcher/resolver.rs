//! Resolves names for the HTTP client. Every dial asks here, and dials only addresses that the guard allows.

use std::sync::Arc;

use foreman_webhook::Guard;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::destination::Destinations;

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
        Box::pin(async move {
            // The client puts the URL's port in the place of 0.
            let addresses = guard.resolve(name.as_str(), 0).await?;
            if let Some(first) = addresses.first() {
                destinations.learn(name.as_str(), first.ip());
            }
            let addresses: Addrs = Box::new(addresses.into_iter());
            Ok(addresses)
        })
    }
}
