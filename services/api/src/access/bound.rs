//! The addresses of `FOREMAN_API_BOUND`. Whoever calls one of them is the client that the address is bound to, without a key:
//! for tools that can send none.

use std::sync::Arc;

use super::site::Site;

/// What a bound address means for a request that came through it. The router of the address adds it to each request.
#[derive(Debug, Clone)]
pub(crate) struct Bound(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    client: String,
    site: Site,
}

impl Bound {
    pub(crate) fn new(client: String, site: Site) -> Self {
        Self(Arc::new(Inner { client, site }))
    }

    /// The name of the client.
    pub(crate) fn client(&self) -> &str {
        &self.0.client
    }

    /// The names by which the address may be called.
    pub(crate) fn site(&self) -> &Site {
        &self.0.site
    }
}
