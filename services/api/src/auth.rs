//! Who asks. A handler can only speak of jobs with the scope that it gets from a [`Caller`], and a caller is made here
//! alone, before anything of the body is read.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use foreman_runtime::background::one_line;
use foreman_store::{ClientId, KeyDigest, Scope, SignedIn, Store, StoreError};
use moka::future::Cache;

use crate::app::Shared;
use crate::config::Access;
use crate::problem::Problem;
use crate::site::Foreign;
use crate::source_address::source_address;

/// How long an answer of the database is believed, so that accepting a job costs no query for its client. A revoked
/// key is good for no longer than this.
const BELIEVED_FOR: Duration = Duration::from_secs(2);

/// Keys and addresses remembered at most, wrong ones included.
const REMEMBERED: u64 = 10_000;

/// A client that has proved who it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller {
    pub(crate) client: ClientId,
    is_admin: bool,
}

impl Caller {
    /// Whose jobs it may see.
    pub(crate) fn scope(self) -> Scope {
        if self.is_admin { Scope::Everyone } else { Scope::Client(self.client) }
    }
}

impl From<SignedIn> for Caller {
    fn from(signed_in: SignedIn) -> Self {
        Self { client: signed_in.client, is_admin: signed_in.is_admin }
    }
}

impl FromRequestParts<Shared> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Shared) -> Result<Self, Problem> {
        app.auth.caller(parts).await
    }
}

/// Tells callers apart.
pub(crate) struct Auth {
    access: Access,
    store: Store,
    keys: Cache<KeyDigest, Option<SignedIn>>,
    addresses: Cache<IpAddr, Option<SignedIn>>,
}

impl Auth {
    pub(crate) fn new(access: Access, store: Store) -> Self {
        Self {
            access,
            store,
            keys: Cache::builder().max_capacity(REMEMBERED).time_to_live(BELIEVED_FOR).build(),
            addresses: Cache::builder().max_capacity(REMEMBERED).time_to_live(BELIEVED_FOR).build(),
        }
    }

    async fn caller(&self, parts: &Parts) -> Result<Caller, Problem> {
        match &self.access {
            Access::Keys => {
                let key = bearer(&parts.headers)?;
                let digest = KeyDigest::of(key);
                let found = self.keys.try_get_with(digest, self.store.sign_in(digest)).await;
                found.map_err(lookup_failed)?.map(Caller::from).ok_or_else(key_wrong)
            }
            Access::Addresses { site, proxies } => {
                site.check(&parts.uri, &parts.headers).map_err(foreign)?;
                let ConnectInfo(peer) = parts
                    .extensions
                    .get::<ConnectInfo<SocketAddr>>()
                    .copied()
                    .ok_or_else(Problem::internal)?;
                let address = source_address(peer, &parts.headers, proxies);
                let found = self.addresses.try_get_with(address, self.store.address_client(address)).await;
                found.map_err(lookup_failed)?.map(Caller::from).ok_or_else(address_revoked)
            }
        }
    }
}

/// The key of `Authorization: Bearer`.
fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    let value = headers.get(header::AUTHORIZATION).ok_or_else(key_missing)?;
    let (scheme, key) = value.to_str().ok().and_then(|value| value.split_once(' ')).ok_or_else(key_wrong)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(key.trim()) } else { Err(key_missing()) }
}

/// One lookup serves all who wait for the same answer, so its error is shared.
fn lookup_failed(error: Arc<StoreError>) -> Problem {
    tracing::warn!(error = one_line(error), "a client could not be looked up");
    Problem::unavailable("database_away", "the database does not answer; try again in a moment")
}

fn key_missing() -> Problem {
    unauthorized(
        "key_missing",
        "a key is needed; send `Authorization: Bearer fk_…` with the key of your client",
    )
}

fn key_wrong() -> Problem {
    unauthorized("key_wrong", "the key is not known or was revoked; ask the operator for a new one")
}

fn unauthorized(code: &'static str, error: &'static str) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, code, error)
        .with(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
}

fn address_revoked() -> Problem {
    let error = "this address was shut out by the operator; ask for access";
    Problem::new(StatusCode::FORBIDDEN, "address_revoked", error)
}

fn foreign(foreign: Foreign) -> Problem {
    match foreign {
        Foreign::Host => Problem::new(
            StatusCode::FORBIDDEN,
            "foreign_host",
            "the Host header names no host of ours; call the api by its address, or have the name added to FOREMAN_ORIGINS",
        ),
        Foreign::Origin => Problem::new(
            StatusCode::FORBIDDEN,
            "foreign_origin",
            "the Origin header names a foreign page; have its origin added to FOREMAN_ORIGINS if it should have access",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_what_follows_bearer() {
        let key = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            bearer(&headers).map(str::to_owned).ok()
        };
        assert_eq!(key("Bearer fk_a").as_deref(), Some("fk_a"));
        assert_eq!(key("bearer  fk_a ").as_deref(), Some("fk_a"));
        for value in ["fk_a", "Basic fk_a", "", "Bearer"] {
            assert_eq!(key(value), None, "{value}");
        }
        assert!(bearer(&HeaderMap::new()).is_err());
    }
}
