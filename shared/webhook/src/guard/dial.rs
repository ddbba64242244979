//! Resolving a receiver's name at the moment of the dial.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::{Allow, Refused};
use crate::outcome::Failure;

/// Lookups at the same time. The system's resolver blocks a thread each and cannot be interrupted, so names whose
/// servers never answer must not take all the threads of the process.
const MAX_LOOKUPS: usize = 128;

/// Resolves names and keeps the addresses that may be called.
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

    /// The addresses of `host` that may be called: dial these and no others, without resolving again.
    ///
    /// Of a name with both kinds the refused addresses are dropped and the others stay. That is as safe as
    /// refusing the name, because nothing but the checked addresses is ever dialled, and it keeps receivers
    /// reachable that publish an internal address beside the public one. Bound the wait with a timeout.
    pub async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, GuardError> {
        let lookup_error = |source| GuardError::Lookup { host: host.to_owned(), source };
        let permit = Arc::clone(&self.lookups)
            .acquire_owned()
            .await
            .map_err(|closed| lookup_error(io::Error::other(closed)))?;
        let target = (host.to_owned(), port);
        let found = spawn_blocking(move || {
            // Held by the thread, not by the caller, who may give up long before the resolver does.
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
