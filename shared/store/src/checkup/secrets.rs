//! The sealed secrets, and whether the key of this environment opens them.
//!
//! Must never give a secret out.

use crate::client::seal::{Seal, UnsealError};
use crate::db::connect::Store;
use crate::db::error::StoreError;

/// A client that signs in with a key, and whether its webhooks can be signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientSecret {
    pub client: String,
    /// `None` if the client has no secret.
    pub secret: Option<SealedSecret>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedSecret {
    /// The id of the key that sealed the secret, as [`Seal::key_id`] gives it.
    pub key_id: Option<String>,
    pub unsealed: Result<(), UnsealError>,
}

impl Store {
    /// The clients that sign in with a key, and whether `seal` opens their secrets. Nobody looks at the opened
    /// secrets.
    pub async fn client_secrets(&self, seal: Option<&Seal>) -> Result<Vec<ClientSecret>, StoreError> {
        let rows = sqlx::query!(
            r#"-- client_secrets
            SELECT id, name, secret FROM client WHERE secret IS NOT NULL OR key_digest IS NOT NULL ORDER BY name"#
        )
        .fetch_all(self.once())
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| ClientSecret {
                client: row.name,
                secret: row.secret.map(|sealed| SealedSecret {
                    key_id: Seal::key_id_of(&sealed),
                    unsealed: match seal {
                        None => Err(UnsealError::NoKey),
                        Some(seal) => seal.unseal(row.id, &sealed).map(drop),
                    },
                }),
            })
            .collect())
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
