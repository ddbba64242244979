//! The secrets that sign webhooks.
//!
//! Must never give a secret to anybody except the sender of webhooks.

use std::collections::HashMap;

use crate::client::seal::{Seal, UnsealError};
use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::id::ClientId;

impl Store {
    /// The secrets that sign each client's webhooks: the current one first, then the old one during a rotation.
    ///
    /// A client without a secret of its own, such as a source address, has an empty list. A client whose secrets
    /// cannot be read gets an error of its own: its webhooks must not be sent unsigned, and must not hold up those of
    /// other clients.
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
