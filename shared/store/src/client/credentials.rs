//! Clients as an operator manages them: made, listed, given new keys and secrets, revoked.
//!
//! Must never give a key or a secret out in clear a second time after it was made.

use std::fmt;

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use chrono::{DateTime, Utc};

use crate::client::seal::Seal;
use crate::client::sign_in::KeyDigest;
use crate::client::terms::{OwnTerms, TermsChange};
use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::id::ClientId;

/// Every key begins with this, so that people and secret scanners recognise a key.
const KEY_PREFIX: &str = "fk_";
const KEY_BYTES: usize = 32;
/// The form of Standard Webhooks, whose libraries make secrets of 24 bytes.
const SECRET_PREFIX: &str = "whsec_";
const SECRET_BYTES: usize = 24;

/// How long the old key and the old secret stay valid after a rotation.
const ROTATION_HOURS: i32 = 24;

/// The name of a client begins with this if and only if the client is a source address.
pub(crate) const ADDRESS_PREFIX: &str = "address ";

const MAX_NAME_CHARS: usize = 200;

/// What a client gets once, when it is made or rotated.
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
#[derive(Debug, Clone, PartialEq)]
pub struct Client {
    pub id: ClientId,
    pub name: String,
    pub is_admin: bool,
    /// Whether the client signs in with a key. A source address does not.
    pub has_key: bool,
    pub created_at: DateTime<Utc>,
    /// How long the key and secret from before the last rotation are valid, if they still are.
    pub previous_until: Option<DateTime<Utc>>,
    pub revoked_at: Option<DateTime<Utc>>,
    pub terms: OwnTerms,
}

/// Why a client could not be made or changed. The text is for the operator.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error(
        "a client's name is 1 to {MAX_NAME_CHARS} characters, without control characters and not only blanks; choose another"
    )]
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
        if name.trim().is_empty()
            || name.chars().count() > MAX_NAME_CHARS
            || name.chars().any(char::is_control)
        {
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
            made.client.uuid(),                          // $1 id
            name,                                        // $2 name
            is_admin,                                    // $3 is_admin
            KeyDigest::of(&made.key) as KeyDigest,       // $4 key_digest
            seal.seal(made.client.uuid(), &made.secret), // $5 secret
        )
        .execute(self.once())
        .await
        .map_err(StoreError::from)?;
        if inserted.rows_affected() == 0 {
            return Err(ClientError::NameTaken(name.to_owned()));
        }
        Ok(made)
    }

    /// Every client, sorted by name.
    pub async fn clients(&self) -> Result<Vec<Client>, StoreError> {
        let clients = sqlx::query_as!(
            Row,
            r#"-- clients
            SELECT id AS "id: ClientId", name, is_admin, key_digest IS NOT NULL AS "has_key!", created_at,
                   CASE WHEN previous_until > now() THEN previous_until END AS previous_until, revoked_at, weight,
                   max_queued, max_queued_bytes, max_running, gpu_seconds_a_day
            FROM client ORDER BY name"#
        )
        .fetch_all(self.once())
        .await?;
        Ok(clients.into_iter().map(Client::from).collect())
    }

    /// Gives a client a new key and secret. The current ones stay valid for a day; those from before them end at
    /// once.
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
        // Somebody revoked the client between the two statements.
        if rotated.rows_affected() == 0 {
            return Err(ClientError::Revoked(name.to_owned()));
        }
        Ok(made)
    }

    /// Ends all keys of a client for ever. Its jobs go on, and their webhooks stay signed. Safe to repeat.
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

    /// Changes the terms of a client, and returns the client as it is then.
    pub async fn change_terms(&self, name: &str, change: &TermsChange) -> Result<Client, ClientError> {
        self.set_client_terms(name, change).await?;
        self.client_named(name).await
    }

    pub async fn client_named(&self, name: &str) -> Result<Client, ClientError> {
        let client = sqlx::query_as!(
            Row,
            r#"-- client_named
            SELECT id AS "id: ClientId", name, is_admin, key_digest IS NOT NULL AS "has_key!", created_at,
                   CASE WHEN previous_until > now() THEN previous_until END AS previous_until, revoked_at, weight,
                   max_queued, max_queued_bytes, max_running, gpu_seconds_a_day
            FROM client WHERE name = $1"#,
            name
        )
        .fetch_optional(self.once())
        .await
        .map_err(StoreError::from)?;
        client.map(Client::from).ok_or_else(|| ClientError::Unknown(name.to_owned()))
    }
}

/// A client as its row says it.
struct Row {
    id: ClientId,
    name: String,
    is_admin: bool,
    has_key: bool,
    created_at: DateTime<Utc>,
    previous_until: Option<DateTime<Utc>>,
    revoked_at: Option<DateTime<Utc>>,
    weight: Option<f64>,
    max_queued: Option<i64>,
    max_queued_bytes: Option<i64>,
    max_running: Option<i32>,
    gpu_seconds_a_day: Option<f64>,
}

impl From<Row> for Client {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            name: row.name,
            is_admin: row.is_admin,
            has_key: row.has_key,
            created_at: row.created_at,
            previous_until: row.previous_until,
            revoked_at: row.revoked_at,
            terms: OwnTerms {
                weight: row.weight,
                max_queued: row.max_queued,
                max_queued_bytes: row.max_queued_bytes,
                max_running: row.max_running,
                gpu_seconds_a_day: row.gpu_seconds_a_day,
            },
        }
    }
}

impl Credentials {
    fn make(client: ClientId, name: &str) -> Self {
        let key = URL_SAFE_NO_PAD.encode(rand::random::<[u8; KEY_BYTES]>());
        Self { client, name: name.to_owned(), key: format!("{KEY_PREFIX}{key}"), secret: new_secret() }
    }
}

/// A new secret, `whsec_…`.
pub(crate) fn new_secret() -> String {
    format!("{SECRET_PREFIX}{}", STANDARD.encode(rand::random::<[u8; SECRET_BYTES]>()))
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
}
