//! Signing in: which client an API key or a name belongs to.
//!
//! A key is stored only as its digest. A key has 256 random bits, so nobody can find it from a plain SHA-256, and the
//! duration of a look-up by digest reveals nothing.

use sha2::{Digest, Sha256};

use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::id::ClientId;

/// The digest of an API key. Foreman stores it and looks it up, never the key.
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
    /// An administrator sees the jobs of every client.
    pub is_admin: bool,
}

impl Store {
    /// The client whose key this is, unless the key is unknown, expired or revoked.
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

    /// The client with this name, unless it does not exist or was revoked.
    pub async fn sign_in_as(&self, name: &str) -> Result<Option<SignedIn>, StoreError> {
        let client = sqlx::query_as!(
            SignedIn,
            r#"-- sign_in_as
            SELECT id AS "client: ClientId", is_admin FROM client WHERE name = $1 AND revoked_at IS NULL"#,
            name
        )
        .fetch_optional(self.once())
        .await?;
        Ok(client)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_the_sha_256_of_the_key() {
        assert_eq!(
            hex::encode(KeyDigest::of("abc").0),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
