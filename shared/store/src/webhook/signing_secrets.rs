//! The secrets that sign webhooks.
//!
//! Must never give a secret to anybody except the sender of webhooks.

use std::collections::HashMap;

use crate::client::seal::{Seal, UnsealError};
use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::webhook::receiver::SecretOwner;

impl Store {
    /// The secrets of each owner: the current one first, then the old one during a rotation.
    ///
    /// An owner without a secret, such as a client that is a source address, has an empty list or is missing. An owner
    /// whose secrets cannot be read gets an error of its own: its webhooks must not be sent unsigned, and must not hold
    /// up those of other owners.
    pub async fn signing_secrets(
        &self,
        seal: Option<&Seal>,
        owners: &[SecretOwner],
    ) -> Result<HashMap<SecretOwner, Result<Vec<String>, UnsealError>>, StoreError> {
        let ids: Vec<_> = owners.iter().map(|owner| owner.0).collect();
        let rows = sqlx::query!(
            r#"-- signing_secrets
            SELECT id AS "owner: SecretOwner", secret, CASE WHEN previous_until > now() THEN previous_secret END AS previous
            FROM client WHERE id = ANY($1)"#,
            &ids
        )
        .fetch_all(self.once())
        .await?;
        let unseal =
            |owner: SecretOwner, sealed: Vec<u8>| seal.ok_or(UnsealError::NoKey)?.unseal(owner.0, &sealed);
        Ok(rows
            .into_iter()
            .map(|row| {
                let sealed = row.secret.into_iter().chain(row.previous);
                (row.owner, sealed.map(|sealed| unseal(row.owner, sealed)).collect())
            })
            .collect())
    }
}
