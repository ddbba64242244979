//! What a webhook to a receiver is sent with: the secrets that sign it, and headers of the client's own.
//!
//! Must never give a secret to anybody except the sender of webhooks.

use std::collections::HashMap;
use std::fmt;

use crate::client::seal::{Seal, UnsealError};
use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::webhook::endpoint::EndpointHeaders;
use crate::webhook::receiver::SecretOwner;

/// The secrets of an owner, the current one first, then the old one during a rotation; and the headers of an endpoint.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct StoredSigning {
    pub secrets: Vec<String>,
    pub headers: EndpointHeaders,
}

impl fmt::Debug for StoredSigning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredSigning").finish_non_exhaustive()
    }
}

impl Store {
    /// What each owner's webhooks are sent with.
    ///
    /// An owner without a secret, such as a client that is a source address, has none or is missing. An owner
    /// whose secrets cannot be read gets an error of its own: its webhooks must not be sent unsigned, and must not hold
    /// up those of other owners.
    pub async fn signing_secrets(
        &self,
        seal: Option<&Seal>,
        owners: &[SecretOwner],
    ) -> Result<HashMap<SecretOwner, Result<StoredSigning, UnsealError>>, StoreError> {
        let ids: Vec<_> = owners.iter().map(|owner| owner.0).collect();
        let rows = sqlx::query!(
            r#"-- signing_secrets
            SELECT id AS "owner!: SecretOwner", secret, CASE WHEN previous_until > now() THEN previous_secret END AS previous,
                   NULL::bytea AS headers
            FROM client WHERE id = ANY($1)
            UNION ALL
            SELECT id, secret, CASE WHEN previous_until > now() THEN previous_secret END, headers
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
                let sealed = row.secret.iter().chain(&row.previous);
                let secrets = sealed.map(|sealed| unseal(row.owner, sealed)).collect::<Result<Vec<_>, _>>();
                let headers = match &row.headers {
                    None => Ok(Vec::new()),
                    Some(sealed) => unseal(row.owner, sealed)
                        .and_then(|text| serde_json::from_str(&text).map_err(|_| UnsealError::Damaged)),
                };
                let signing = secrets.and_then(|secrets| Ok(StoredSigning { secrets, headers: headers? }));
                (row.owner, signing)
            })
            .collect())
    }
}
