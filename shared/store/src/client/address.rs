//! Clients that are source addresses, for an api without authentication. A client is made when its address is first
//! seen, and forgotten when it has no jobs, webhooks, keys or usage any more.
//!
//! Must never forget a client that still has jobs, webhooks, keys, usage, a revocation or terms of its own.

use crate::client::credentials::ADDRESS_PREFIX;
use crate::client::sign_in::SignedIn;
use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::id::ClientId;

/// What is known of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressClient {
    Known(SignedIn),
    /// The operator has revoked it.
    Revoked,
    Unseen,
}

impl Store {
    /// The client of an address. `address` is the text by which addresses are told apart.
    pub async fn address_client(&self, address: &str) -> Result<AddressClient, StoreError> {
        let found = sqlx::query!(
            r#"-- address_client
            SELECT id AS "client: ClientId", is_admin, revoked_at IS NOT NULL AS "revoked!" FROM client WHERE name = $1"#,
            name(address)
        )
        .fetch_optional(self.once())
        .await?;
        Ok(match found {
            None => AddressClient::Unseen,
            Some(row) if row.revoked => AddressClient::Revoked,
            Some(row) => AddressClient::Known(SignedIn { client: row.client, is_admin: row.is_admin }),
        })
    }

    /// Makes the client of a new address. Its id is derived from the address, so that an address that was forgotten
    /// and comes back is the same client.
    pub async fn create_address_client(&self, address: &str) -> Result<(), StoreError> {
        let name = name(address);
        sqlx::query!(
            "-- create_address_client
            INSERT INTO client (id, name) VALUES ($1, $2) ON CONFLICT DO NOTHING",
            ClientId::derive(&name).uuid(),
            name
        )
        .execute(self.once())
        .await?;
        Ok(())
    }

    /// Forgets addresses that were first seen more than a day ago and have nothing stored, at most `limit`. Returns
    /// how many. An address that is revoked or has terms of its own is kept.
    pub async fn prune_address_clients(&self, limit: i64) -> Result<u64, StoreError> {
        let pruned = sqlx::query!(
            r#"-- prune_address_clients
            WITH idle AS MATERIALIZED (
                SELECT c.id FROM client c
                WHERE starts_with(c.name, $2) AND c.key_digest IS NULL AND c.revoked_at IS NULL
                  AND num_nonnulls(c.weight, c.max_queued, c.max_queued_bytes, c.max_running, c.gpu_seconds_a_day) = 0
                  AND c.created_at < now() - interval '1 day'
                  AND NOT EXISTS (SELECT FROM job j WHERE j.client_id = c.id)
                  AND NOT EXISTS (SELECT FROM webhook_lane l WHERE l.client_id = c.id)
                  AND NOT EXISTS (SELECT FROM webhook_endpoint w WHERE w.client_id = c.id)
                  AND NOT EXISTS (SELECT FROM idempotency_key k WHERE k.client_id = c.id)
                  AND NOT EXISTS (SELECT FROM usage_hour u WHERE u.client_id = c.id)
                LIMIT $1 FOR UPDATE SKIP LOCKED
            )
            DELETE FROM client c USING idle i WHERE c.id = i.id"#,
            limit,
            ADDRESS_PREFIX,
        )
        .execute(self.once())
        .await?;
        Ok(pruned.rows_affected())
    }
}

fn name(address: &str) -> String {
    format!("{ADDRESS_PREFIX}{address}")
}
