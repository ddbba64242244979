//! What a webhook to a receiver is sent with: the secrets that sign it, and headers of the client's own.
//!
//! Must never give a secret to anybody except the sender of webhooks.

use std::collections::HashMap;
use std::fmt;

use chrono::{DateTime, Utc};

use crate::client::seal::{Seal, UnsealError};
use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::webhook::endpoint::EndpointHeaders;
use crate::webhook::receiver::SecretOwner;

/// What an owner has stored. Each value that cannot be read stands for itself, so that the caller decides what depends on it.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredSigning {
    /// `None` if the owner has none.
    pub secret: Option<Result<String, UnsealError>>,
    /// During a rotation the one from before it.
    pub previous: Option<Result<String, UnsealError>>,
    /// An endpoint's.
    pub headers: Result<EndpointHeaders, UnsealError>,
    /// When the endpoint was last changed, as [`Receiver`](crate::Receiver) has it.
    pub changed_at: Option<DateTime<Utc>>,
}

impl Default for StoredSigning {
    fn default() -> Self {
        Self { secret: None, previous: None, headers: Ok(Vec::new()), changed_at: None }
    }
}

impl fmt::Debug for StoredSigning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredSigning").finish_non_exhaustive()
    }
}

impl Store {
    /// What each owner's webhooks are sent with. An owner without a secret, such as a client that is a source address, has none
    /// or is missing.
    pub async fn signing_secrets(
        &self,
        seal: Option<&Seal>,
        owners: &[SecretOwner],
    ) -> Result<HashMap<SecretOwner, StoredSigning>, StoreError> {
        let ids: Vec<_> = owners.iter().map(|owner| owner.0).collect();
        let rows = sqlx::query!(
            r#"-- signing_secrets
            SELECT id AS "owner!: SecretOwner", secret, CASE WHEN previous_until > now() THEN previous_secret END AS previous,
                   NULL::bytea AS headers, NULL::timestamptz AS "changed_at?"
            FROM client WHERE id = ANY($1)
            UNION ALL
            SELECT id, secret, CASE WHEN previous_until > now() THEN previous_secret END, headers, updated_at
            FROM webhook_endpoint WHERE id = ANY($1)"#,
            &ids
        )
        .fetch_all(self.once())
        .await?;
        let unseal =
            |owner: SecretOwner, sealed: &[u8]| seal.ok_or(UnsealError::NoKey)?.unseal(owner.0, sealed);
        Ok(rows
            .into_iter()
            .map(|row| {
                let unseal = |sealed: Vec<u8>| unseal(row.owner, &sealed);
                let headers = row.headers.map_or(Ok(Vec::new()), |sealed| {
                    serde_json::from_str(&unseal(sealed)?).map_err(|_| UnsealError::Damaged)
                });
                let signing = StoredSigning {
                    secret: row.secret.map(unseal),
                    previous: row.previous.map(unseal),
                    headers,
                    changed_at: row.changed_at,
                };
                (row.owner, signing)
            })
            .collect())
    }
}
