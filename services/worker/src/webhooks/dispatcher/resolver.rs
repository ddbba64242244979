//! Names, as the HTTP client may see them: every dial asks here, and dials exactly the addresses that were found fit.

use std::sync::Arc;

use foreman_webhook::Guard;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::destination::Destinations;

/// Resolves anew for each connection. A connection that is kept leads to an address that was fit when it was dialled,
/// and stays with that address whatever its name leads to since.
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
