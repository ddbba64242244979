//! Clients: who may submit, the keys they sign in with, and the secrets that sign their webhooks.
//!
//! A key is stored as its digest alone. It holds 256 random bits, so that a plain SHA-256 cannot be searched back and
//! the lookup by digest tells nothing by its time. Key and secret leave this file in clear once, when they are made.

use std::{collections::HashMap, fmt};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};

use crate::client::seal::{Seal, UnsealError};
use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::id::ClientId;

/// What every key begins with, so that people and secret scanners know one when they see it.
const KEY_PREFIX: &str = "fk_";
const KEY_BYTES: usize = 32;
/// Standard Webhooks' own form; 24 bytes is what its libraries make.
const SECRET_PREFIX: &str = "whsec_";
const SECRET_BYTES: usize = 24;

/// How long the key and the secret of before a rotation stay good.
const ROTATION_HOURS: i32 = 24;

/// The names of clients that are source addresses begin so, and no others.
pub(crate) const ADDRESS_PREFIX: &str = "address ";

const MAX_NAME_CHARS: usize = 200;

/// The digest of an API key: what is stored and looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, sqlx::Type)]
#[sqlx(transparent)]
pub struct KeyDigest([u8; 32]);

impl KeyDigest {
    /// The digest of a key as a client sent it.
    pub fn of(key: &str) -> Self {
        Self(Sha256::digest(key).into())
    }
}

/// A client that has proved who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignedIn {
    pub client: ClientId,
    /// Sees every client's jobs.
    pub is_admin: bool,
}

/// What a client is given once, and never again.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub client: ClientId,
    pub name: String,
    /// `fk_…`, for `Authorization: Bearer`.
    pub key: String,
    /// `whsec_…`, to verify webhooks with.
    pub secret: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("client", &self.client)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A client as an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    pub id: ClientId,
    pub name: String,
    pub is_admin: bool,
    /// Whether it signs in with a key; a source address does not.
    pub has_key: bool,
    pub created_at: DateTime<Utc>,
    /// Until when the key and secret of before the last rotation are good, if they still are.
    pub previous_until: Option<DateTime<Utc>>,
    pub revoked_at: Option<DateTime<Utc>>,
}

/// Why a client could not be made or changed. The text is for the operator.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("a client's name is 1 to {MAX_NAME_CHARS} characters without control characters; choose another")]
    InvalidName,
    #[error("names that begin with `{ADDRESS_PREFIX}` belong to source addresses; choose another")]
    ReservedName,
    #[error(
        "there is a client named {0:?} already (a revoked one keeps its name); choose another name or rotate it"
    )]
    NameTaken(String),
    #[error("there is no client named {0:?}; `foreman client list` shows them all")]
    Unknown(String),
    #[error("the client {0:?} is revoked; create a new one under another name")]
    Revoked(String),
    #[error(
        "the client {0:?} is a source address and has no key; create a client and give it the key instead"
    )]
    NoKey(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// Makes a client with a new key and secret.
    pub async fn create_client(
        &self,
        seal: &Seal,
        name: &str,
        is_admin: bool,
    ) -> Result<Credentials, ClientError> {
        if name.is_empty() || name.chars().count() > MAX_NAME_CHARS || name.chars().any(char::is_control) {
            return Err(ClientError::InvalidName);
        }
        if name.starts_with(ADDRESS_PREFIX) {
            return Err(ClientError::ReservedName);
        }
        let made = Credentials::make(ClientId::generate(), name);
        let inserted = sqlx::query!(
            r#"-- create_client
            INSERT INTO client (id, name, is_admin, key_digest, secret) VALUES ($1, $2, $3, $4, $5)
            ON CONFLICT (name) DO NOTHING"#,
            made.client.uuid(),
            name,
            is_admin,
            KeyDigest::of(&made.key) as KeyDigest,
            seal.seal(made.client.uuid(), &made.secret),
        )
        .execute(self.once())
        .await
        .map_err(StoreError::from)?;
        if inserted.rows_affected() == 0 {
            return Err(ClientError::NameTaken(name.to_owned()));
        }
        Ok(made)
    }

    /// Every client, by name.
    pub async fn clients(&self) -> Result<Vec<Client>, StoreError> {
        let clients = sqlx::query_as!(
            Client,
            r#"-- clients
            SELECT id AS "id: ClientId", name, is_admin, key_digest IS NOT NULL AS "has_key!", created_at,
                   CASE WHEN previous_until > now() THEN previous_until END AS previous_until, revoked_at
            FROM client ORDER BY name"#
        )
        .fetch_all(self.once())
        .await?;
        Ok(clients)
    }

    /// Gives a client a new key and secret. Those of before stay good for a day, those of before that end at once.
    pub async fn rotate_client(&self, seal: &Seal, name: &str) -> Result<Credentials, ClientError> {
        let found = self.client_named(name).await?;
        if found.revoked_at.is_some() {
            return Err(ClientError::Revoked(name.to_owned()));
        }
        if !found.has_key {
            return Err(ClientError::NoKey(name.to_owned()));
        }
        let made = Credentials::make(found.id, name);
        let rotated = sqlx::query!(
            r#"-- rotate_client
            UPDATE client
            SET previous_key = key_digest, previous_secret = secret, previous_until = now() + make_interval(hours => $4),
                key_digest = $2, secret = $3
            WHERE id = $1 AND revoked_at IS NULL"#,
            made.client.uuid(),
            KeyDigest::of(&made.key) as KeyDigest,
            seal.seal(made.client.uuid(), &made.secret),
            ROTATION_HOURS,
        )
        .execute(self.once())
        .await
        .map_err(StoreError::from)?;
        // Somebody revoked it between the two statements.
        if rotated.rows_affected() == 0 {
            return Err(ClientError::Revoked(name.to_owned()));
        }
        Ok(made)
    }

    /// Ends a client's keys for good, old and new. Its jobs go on, and their webhooks stay signed. Twice is harmless.
    pub async fn revoke_client(&self, name: &str) -> Result<Client, ClientError> {
        sqlx::query!(
            "-- revoke_client
            UPDATE client SET revoked_at = coalesce(revoked_at, now()) WHERE name = $1",
            name
        )
        .execute(self.once())
        .await
        .map_err(StoreError::from)?;
        self.client_named(name).await
    }

    async fn client_named(&self, name: &str) -> Result<Client, ClientError> {
        let client = sqlx::query_as!(
            Client,
            r#"-- client_named
            SELECT id AS "id: ClientId", name, is_admin, key_digest IS NOT NULL AS "has_key!", created_at,
                   CASE WHEN previous_until > now() THEN previous_until END AS previous_until, revoked_at
            FROM client WHERE name = $1"#,
            name
        )
        .fetch_optional(self.once())
        .await
        .map_err(StoreError::from)?;
        client.ok_or_else(|| ClientError::Unknown(name.to_owned()))
    }

    /// Whose key this is, if it is anybody's.
    pub async fn sign_in(&self, key: KeyDigest) -> Result<Option<SignedIn>, StoreError> {
        let signed_in = sqlx::query_as!(
            SignedIn,
            r#"-- sign_in
            SELECT id AS "client!: ClientId", is_admin AS "is_admin!"
            FROM (SELECT id, is_admin, revoked_at FROM client WHERE key_digest = $1
                  UNION ALL
                  SELECT id, is_admin, revoked_at FROM client WHERE previous_key = $1 AND previous_until > now()) AS known
            WHERE revoked_at IS NULL"#,
            key as KeyDigest
        )
        .fetch_optional(self.once())
        .await?;
        Ok(signed_in)
    }

    /// The secrets that sign each client's webhooks, the current one first, and during a rotation the one before.
    ///
    /// None for a client without a secret of its own, such as a source address. A client whose secrets cannot be read
    /// gets an error of its own, so that its webhooks are neither sent unsigned nor hold up the others.
    pub async fn signing_secrets(
        &self,
        seal: Option<&Seal>,
        clients: &[ClientId],
    ) -> Result<HashMap<ClientId, Result<Vec<String>, UnsealError>>, StoreError> {
        let ids: Vec<_> = clients.iter().map(|client| client.uuid()).collect();
        let rows = sqlx::query!(
            r#"-- signing_secrets
            SELECT id AS "id: ClientId", secret, CASE WHEN previous_until > now() THEN previous_secret END AS previous
            FROM client WHERE id = ANY($1)"#,
            &ids
        )
        .fetch_all(self.once())
        .await?;
        let unseal =
            |owner: ClientId, sealed: Vec<u8>| seal.ok_or(UnsealError::NoKey)?.unseal(owner.uuid(), &sealed);
        Ok(rows
            .into_iter()
            .map(|row| {
                let sealed = row.secret.into_iter().chain(row.previous);
                (row.id, sealed.map(|sealed| unseal(row.id, sealed)).collect())
            })
            .collect())
    }
}

impl Credentials {
    fn make(client: ClientId, name: &str) -> Self {
        let key = URL_SAFE_NO_PAD.encode(rand::random::<[u8; KEY_BYTES]>());
        let secret = STANDARD.encode(rand::random::<[u8; SECRET_BYTES]>());
        Self {
            client,
            name: name.to_owned(),
            key: format!("{KEY_PREFIX}{key}"),
            secret: format!("{SECRET_PREFIX}{secret}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_fresh_and_never_printed() {
        let client = ClientId::generate();
        let (one, other) = (Credentials::make(client, "a"), Credentials::make(client, "a"));
        assert_ne!(one.key, other.key);
        assert_ne!(one.secret, other.secret);
        assert_eq!(one.key.len(), KEY_PREFIX.len() + 43);
        let shown = format!("{one:?}");
        assert!(!shown.contains(&one.key) && !shown.contains(&one.secret));
    }

    #[test]
    fn a_digest_is_the_sha_256_of_the_key() {
        assert_eq!(
            hex::encode(KeyDigest::of("abc").0),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
