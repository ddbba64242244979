//! Resolves the name of a receiver just before the worker connects to it.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::{Allow, Refused};
use crate::reaction::Failure;

/// How many lookups may run at the same time. Each blocks a thread in the system's resolver, and cannot be interrupted. So
/// names whose servers never answer must not take all threads of the process.
const MAX_LOOKUPS: usize = 128;

/// Resolves names, and returns only the addresses that may be called.
#[derive(Debug, Clone)]
pub struct Guard {
    allow: Arc<Allow>,
    lookups: Arc<Semaphore>,
}

#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    #[error("{host} cannot be looked up")]
    Lookup { host: String, source: io::Error },
    #[error("{host} has no address")]
    NoAddress { host: String },
    #[error(transparent)]
    Blocked(Refused),
}

impl GuardError {
    pub fn failure(&self) -> Failure {
        match self {
            Self::Lookup { .. } | Self::NoAddress { .. } => Failure::Dns,
            Self::Blocked(_) => Failure::BlockedAddress,
        }
    }
}

impl Guard {
    pub fn new(allow: Allow) -> Self {
        Self { allow: Arc::new(allow), lookups: Arc::new(Semaphore::new(MAX_LOOKUPS)) }
    }

    pub fn allow(&self) -> &Allow {
        &self.allow
    }

    /// The addresses of `host` that may be called. Connect to these and no others, and do not resolve the name again.
    ///
    /// If a name has allowed and refused addresses, the allowed ones are returned. That is as safe as refusing the name,
    /// because the worker connects only to the returned addresses. It also keeps receivers reachable that publish an
    /// internal address beside the public one. The caller must bound the wait with a timeout.
    pub async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, GuardError> {
        let lookup_error = |source| GuardError::Lookup { host: host.to_owned(), source };
        let permit = Arc::clone(&self.lookups)
            .acquire_owned()
            .await
            .map_err(|closed| lookup_error(io::Error::other(closed)))?;
        let target = (host.to_owned(), port);
        let found = spawn_blocking(move || {
            // The thread holds the permit, because the caller may give up long before the resolver does.
            let _permit = permit;
            target.to_socket_addrs().map(Iterator::collect::<Vec<_>>)
        })
        .await
        .map_err(|panic| lookup_error(io::Error::other(panic)))?
        .map_err(lookup_error)?;
        keep_allowed(host, found, &self.allow)
    }
}

fn keep_allowed(host: &str, found: Vec<SocketAddr>, allow: &Allow) -> Result<Vec<SocketAddr>, GuardError> {
    let mut refused = None;
    let mut allowed = Vec::with_capacity(found.len());
    for address in found {
        match allow.check(address.ip()) {
            Ok(()) => allowed.push(address),
            Err(reason) => refused = Some(reason.kind),
        }
    }
    match refused {
        _ if !allowed.is_empty() => Ok(allowed),
        Some(kind) => Err(GuardError::Blocked(Refused::name(host, kind))),
        None => Err(GuardError::NoAddress { host: host.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::Kind;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| SocketAddr::new(text.parse().unwrap(), 443)).collect()
    }

    #[test]
    fn of_a_mixed_answer_only_the_allowed_addresses_are_dialled() {
        let found = addresses(&["10.0.0.1", "8.8.8.8", "::1", "2606:4700::1111", "169.254.169.254"]);
        let kept = keep_allowed("h", found, &Allow::default()).unwrap();
        assert_eq!(kept, addresses(&["8.8.8.8", "2606:4700::1111"]));
    }

    #[test]
    fn a_name_that_leads_only_to_refused_addresses_is_blocked_without_telling_them() {
        let error = keep_allowed("db.internal", addresses(&["10.0.0.1"]), &Allow::default()).unwrap_err();
        assert!(matches!(&error, GuardError::Blocked(Refused { kind: Kind::Private, .. })));
        assert_eq!(error.failure(), Failure::BlockedAddress);
        assert_eq!(
            error.to_string(),
            "webhooks may not go to db.internal, which leads to a private address; to allow it, set \
             FOREMAN_WEBHOOK_ALLOW to private or its CIDR for api and worker"
        );
    }

    #[test]
    fn a_name_without_addresses_is_a_dns_failure() {
        let error = keep_allowed("h", Vec::new(), &Allow::default()).unwrap_err();
        assert_eq!(error.failure(), Failure::Dns);
    }

    #[tokio::test]
    async fn the_systems_resolver_is_asked_and_its_answer_judged() {
        let blocked = Guard::new(Allow::default()).resolve("localhost", 8080).await.unwrap_err();
        assert_eq!(blocked.failure(), Failure::BlockedAddress);

        let allowed = Guard::new(Allow::parse("loopback").unwrap()).resolve("localhost", 8080).await.unwrap();
        assert!(!allowed.is_empty());
        assert!(allowed.iter().all(|address| address.ip().is_loopback() && address.port() == 8080));
    }

    #[tokio::test]
    async fn a_name_that_cannot_be_a_name_is_a_dns_failure() {
        let error = Guard::new(Allow::default()).resolve("no such host", 80).await.unwrap_err();
        assert_eq!(error.failure(), Failure::Dns);
    }
}
