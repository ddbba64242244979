//! The sealed secrets, and whether the key of this environment opens them.
//!
//! Must never give a secret out.

use uuid::Uuid;

use crate::client::seal::{Seal, UnsealError};
use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::id::EndpointId;

/// A client that signs in with a key, and whether its webhooks can be signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientSecret {
    pub client: String,
    /// `None` if the client has no secret.
    pub secret: Option<SealedSecret>,
}

/// An endpoint, and whether its webhooks can be signed and sent with its headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSecrets {
    pub endpoint: EndpointId,
    pub secret: SealedSecret,
    /// `None` if it has no headers.
    pub headers: Option<SealedSecret>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedSecret {
    /// The id of the key that sealed the secret, as [`Seal::key_id`] gives it.
    pub key_id: Option<String>,
    pub unsealed: Result<(), UnsealError>,
}

impl SealedSecret {
    /// Nobody looks at the opened secret.
    fn look(seal: Option<&Seal>, owner: Uuid, sealed: &[u8]) -> Self {
        Self {
            key_id: Seal::key_id_of(sealed),
            unsealed: match seal {
                None => Err(UnsealError::NoKey),
                Some(seal) => seal.unseal(owner, sealed).map(drop),
            },
        }
    }
}

impl Store {
    /// The clients that sign in with a key, and whether `seal` opens their secrets.
    pub async fn client_secrets(&self, seal: Option<&Seal>) -> Result<Vec<ClientSecret>, StoreError> {
        let rows = sqlx::query!(
            r#"-- client_secrets
            SELECT id, name, secret FROM client WHERE secret IS NOT NULL OR key_digest IS NOT NULL ORDER BY name"#
        )
        .fetch_all(self.once())
        .await?;
        let client = |id, name, secret: Option<Vec<u8>>| ClientSecret {
            client: name,
            secret: secret.map(|sealed| SealedSecret::look(seal, id, &sealed)),
        };
        Ok(rows.into_iter().map(|row| client(row.id, row.name, row.secret)).collect())
    }

    /// The endpoints, and whether `seal` opens what their webhooks need: not the secrets from before a rotation, which are left
    /// out where nobody can read them.
    pub async fn endpoint_secrets(&self, seal: Option<&Seal>) -> Result<Vec<EndpointSecrets>, StoreError> {
        let rows = sqlx::query!(
            r#"-- endpoint_secrets
            SELECT id AS "id: EndpointId", secret, headers FROM webhook_endpoint WHERE deleted_at IS NULL ORDER BY id"#
        )
        .fetch_all(self.once())
        .await?;
        let endpoint = |id: EndpointId, secret: &[u8], headers: Option<&[u8]>| EndpointSecrets {
            endpoint: id,
            secret: SealedSecret::look(seal, id.uuid(), secret),
            headers: headers.map(|sealed| SealedSecret::look(seal, id.uuid(), sealed)),
        };
        Ok(rows.iter().map(|row| endpoint(row.id, &row.secret, row.headers.as_deref())).collect())
    }

    /// How many receivers belong to clients without a secret of their own.
    pub async fn receivers_without_secret(&self) -> Result<i64, StoreError> {
        let count = sqlx::query_scalar!(
            r#"-- receivers_without_secret
            SELECT count(*) AS "count!" FROM webhook_lane l
            WHERE NOT EXISTS (SELECT FROM client c WHERE c.id = l.client_id AND c.secret IS NOT NULL)
              AND NOT EXISTS (SELECT FROM webhook_endpoint w WHERE w.id = l.id)"#
        )
        .fetch_one(self.once())
        .await?;
        Ok(count)
    }
}
