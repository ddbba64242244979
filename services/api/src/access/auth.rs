//! Finds out which client sent a request. Only this file makes a [`Caller`], before anything of the body is read. A handler
//! needs the scope of a `Caller` for every look at a job, so no handler can show the jobs of a client who has not proved its
//! name.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ConnectInfo;
use axum::http::StatusCode;
use axum::http::request::Parts;
use foreman_runtime::background::one_line;
use foreman_store::{AddressClient, ClientId, KeyDigest, Scope, SignedIn, Store, StoreError};
use moka::future::Cache;
use tokio::sync::Semaphore;

use crate::access::allowance::Allowance;
use crate::access::bound::Bound;
use crate::access::key;
use crate::access::shares::{Refusals, Resource};
use crate::access::site::ForeignHeader;
use crate::access::source_address::{client_name, is_local, source_address};
use crate::config::Access;
use crate::refusal::Refusal;

/// How long the result of a lookup is kept, so that accepting a job needs no query for its client. A revoked key still works
/// for at most this long.
const BELIEVED_FOR: Duration = Duration::from_secs(2);

/// At most this many keys, and as many addresses, are remembered. Wrong keys count too.
const REMEMBERED: u64 = 10_000;

/// How long we remember that a key was valid, whether the client uses it or not.
const KNOWN_FOR: Duration = Duration::from_secs(24 * 3_600);

/// Look up unknown keys two at a time, with at most 256 of them waiting or looked up, so that guessing keys exhausts neither
/// the pool nor memory.
const UNKNOWN_KEYS_AT_ONCE: usize = 2;
const UNKNOWN_KEYS_WAITING: usize = 256;

/// This many new addresses may become clients at once, and after that one per interval. This is enough for a large office in
/// the morning, and it bounds the new rows to 86,400 a day.
const NEWCOMERS_AT_ONCE: u32 = 256;
const NEWCOMER_INTERVAL: Duration = Duration::from_secs(1);

const NEWCOMERS: Resource = Resource {
    name: "new_addresses",
    code: "busy",
    error: "more new addresses come than are let in; try again when the time in Retry-After has passed",
};

/// A client that has proved who it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller {
    pub(crate) client: ClientId,
    is_admin: bool,
    /// No key was needed, and the request came from this machine itself.
    is_local: bool,
}

impl Caller {
    /// Whether this client may change how the installation works: as an administrator, or, where no keys are needed, as
    /// somebody on this machine.
    pub(crate) fn may_operate(self) -> bool {
        self.is_admin || self.is_local
    }

    /// The jobs that this client may see.
    pub(crate) fn scope(self) -> Scope {
        if self.is_admin { Scope::Everyone } else { Scope::Client(self.client) }
    }
}

impl From<SignedIn> for Caller {
    fn from(signed_in: SignedIn) -> Self {
        Self { client: signed_in.client, is_admin: signed_in.is_admin, is_local: false }
    }
}

/// Finds the client of a request: by its key, by its address, or by the address of ours that it came through.
pub(crate) struct Auth {
    access: Access,
    store: Store,
    keys: Cache<KeyDigest, Option<SignedIn>>,
    /// The key is the name that an address has as a client.
    addresses: Cache<String, Option<SignedIn>>,
    /// Clients that addresses of ours are bound to, by their names.
    bound: Cache<String, Option<SignedIn>>,
    newcomers: Newcomers,
    /// Keys that were valid when they were last looked up.
    known_keys: Cache<KeyDigest, ()>,
    unknown_keys: UnknownKeys,
}

/// Limits the lookups of keys that are not in `known_keys`.
struct UnknownKeys {
    waiting: Semaphore,
    at_once: Semaphore,
}

/// Limits how many addresses become clients. Somebody with many addresses could make a row for each of them, so all addresses
/// share one allowance.
struct Newcomers {
    allowance: Allowance<()>,
    refusals: Refusals,
}

/// Why a lookup did not find out who the client is.
#[derive(Debug, thiserror::Error)]
enum LookupError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("too many unknown keys are being looked up")]
    TooManyUnknownKeys,
    #[error("too many new addresses come at once")]
    TooManyNewcomers(Duration),
}

impl Auth {
    pub(crate) fn new(access: Access, store: Store) -> Self {
        Self {
            access,
            store,
            keys: Cache::builder().max_capacity(REMEMBERED).time_to_live(BELIEVED_FOR).build(),
            addresses: Cache::builder().max_capacity(REMEMBERED).time_to_live(BELIEVED_FOR).build(),
            bound: Cache::builder().max_capacity(REMEMBERED).time_to_live(BELIEVED_FOR).build(),
            known_keys: Cache::builder().max_capacity(REMEMBERED).time_to_live(KNOWN_FOR).build(),
            newcomers: Newcomers {
                allowance: Allowance::new(NEWCOMERS_AT_ONCE, NEWCOMER_INTERVAL),
                refusals: Refusals::new(NEWCOMERS),
            },
            unknown_keys: UnknownKeys {
                waiting: Semaphore::new(UNKNOWN_KEYS_WAITING),
                at_once: Semaphore::new(UNKNOWN_KEYS_AT_ONCE),
            },
        }
    }

    async fn look_up(&self, key: KeyDigest) -> Result<Option<SignedIn>, LookupError> {
        let found = if self.known_keys.contains_key(&key) {
            self.store.sign_in(key).await?
        } else {
            let too_many = || LookupError::TooManyUnknownKeys;
            let _waiting = self.unknown_keys.waiting.try_acquire().map_err(|_| too_many())?;
            let _permit = self.unknown_keys.at_once.acquire().await.map_err(|_| too_many())?;
            self.store.sign_in(key).await?
        };
        match found {
            Some(_) => self.known_keys.insert(key, ()).await,
            None => self.known_keys.invalidate(&key).await,
        }
        Ok(found)
    }

    async fn look_up_address(&self, name: &str) -> Result<Option<SignedIn>, LookupError> {
        let mut found = self.store.address_client(name).await?;
        if found == AddressClient::Unseen {
            self.newcomers.allowance.take(()).map_err(LookupError::TooManyNewcomers)?;
            self.store.create_address_client(name).await?;
            found = self.store.address_client(name).await?;
        }
        Ok(match found {
            AddressClient::Known(signed_in) => Some(signed_in),
            AddressClient::Revoked | AddressClient::Unseen => None,
        })
    }

    /// The client that sent the request with this head.
    pub(crate) async fn caller(&self, parts: &Parts) -> Result<Caller, Refusal> {
        if let Some(bound) = parts.extensions.get::<Bound>() {
            bound.site().check(&parts.uri, &parts.headers).map_err(foreign)?;
            let look_up = async { Ok(self.store.sign_in_as(bound.client()).await?) };
            let found = self.bound.try_get_with_by_ref(bound.client(), look_up).await;
            let found = found.map_err(|error| self.lookup_failed(error))?;
            return found.map(Caller::from).ok_or_else(|| bound_client_missing(bound.client()));
        }
        match &self.access {
            Access::Keys => {
                let digest = KeyDigest::of(&key::key(&parts.headers)?);
                let found = self.keys.try_get_with(digest, self.look_up(digest)).await;
                found.map_err(|error| self.lookup_failed(error))?.map(Caller::from).ok_or_else(key::wrong)
            }
            Access::Addresses { site, proxies } => {
                site.check(&parts.uri, &parts.headers).map_err(foreign)?;
                let ConnectInfo(peer) = parts
                    .extensions
                    .get::<ConnectInfo<SocketAddr>>()
                    .copied()
                    .ok_or_else(Refusal::internal)?;
                let is_local = is_local(peer, &parts.headers);
                let name = client_name(source_address(peer, &parts.headers, proxies));
                let found = self.addresses.try_get_with_by_ref(&name, self.look_up_address(&name)).await;
                found
                    .map_err(|error| self.lookup_failed(error))?
                    .map(|client| Caller { is_local, ..client.into() })
                    .ok_or_else(address_revoked)
            }
        }
    }

    /// One lookup serves all requests that wait for the same key or address, so they share its error.
    fn lookup_failed(&self, error: Arc<LookupError>) -> Refusal {
        match *error {
            LookupError::TooManyUnknownKeys => {
                let error =
                    "too many unknown keys are being looked up at this moment; try again in a few seconds";
                Refusal::unavailable("too_many_strangers", error).retry_after(Duration::from_secs(2))
            }
            LookupError::TooManyNewcomers(wait) => self.newcomers.refusals.whole_is_used().retry_after(wait),
            LookupError::Store(_) => {
                tracing::warn!(error = one_line(error), "a client could not be looked up");
                Refusal::database_away()
            }
        }
    }
}

fn address_revoked() -> Refusal {
    let error = "this address was shut out by the operator; ask for access";
    Refusal::new(StatusCode::FORBIDDEN, "address_revoked", error)
}

fn bound_client_missing(name: &str) -> Refusal {
    let error = format!(
        "this address stands for the client {name:?}, which does not exist or was revoked; the operator can make it with \
         `foreman client create`"
    );
    Refusal::new(StatusCode::FORBIDDEN, "bound_client_missing", error)
}

fn foreign(foreign: ForeignHeader) -> Refusal {
    match foreign {
        ForeignHeader::Host => Refusal::new(
            StatusCode::FORBIDDEN,
            "foreign_host",
            "the Host header names no host of ours; call the api by its address, or have the name added to FOREMAN_ORIGINS",
        ),
        ForeignHeader::Origin => Refusal::new(
            StatusCode::FORBIDDEN,
            "foreign_origin",
            "the Origin header names a foreign page; have its origin added to FOREMAN_ORIGINS if it should have access",
        ),
    }
}
