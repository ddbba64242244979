//! Everything that is stored sealed, and the change to another `FOREMAN_SECRET_KEY`.
//!
//! Each place in which sealed values stand has one line in each of the two statements below, and no other. A secret from before
//! a rotation whose overlap has ended is left as it is: nobody reads it any more.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::client::seal::Seal;
use crate::db::connect::Store;
use crate::db::error::StoreError;

/// Values that one statement writes.
const AT_ONCE: usize = 500;

/// How often everything is looked at again, because somebody wrote at the same time.
const LOOKS: usize = 5;

/// Where a sealed value stands: table and column. The client or endpoint to which it belongs has this id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedPlace {
    pub column: String,
    pub owner: Uuid,
}

/// What became of the sealed values.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resealed {
    /// Sealed anew with the current key.
    pub changed: usize,
    /// Sealed with the current key before.
    pub unchanged: usize,
    /// Opened by no key that is set. They are as they were.
    pub unopened: Vec<SealedPlace>,
}

struct SealedValue {
    column: String,
    owner: Uuid,
    sealed: Vec<u8>,
}

/// A sealed value, and what replaces it.
struct Replacement {
    owner: Uuid,
    before: Vec<u8>,
    after: Vec<u8>,
}

impl Store {
    /// Seals with the current key whatever another one has sealed. Safe to repeat and to interrupt: each value is replaced
    /// by itself, and only if it is still the value that was read.
    pub async fn reseal(&self, seal: &Seal) -> Result<Resealed, StoreError> {
        let mut changed = 0;
        let mut done = Resealed::default();
        for _ in 0..LOOKS {
            done = Resealed::default();
            let mut fresh: BTreeMap<String, Vec<Replacement>> = BTreeMap::new();
            for SealedValue { column, owner, sealed } in self.sealed_values().await? {
                if Seal::key_id_of(&sealed) == Some(seal.key_id()) && seal.unseal(owner, &sealed).is_ok() {
                    done.unchanged += 1;
                } else if let Ok(secret) = seal.unseal(owner, &sealed) {
                    let after = seal.seal(owner, &secret);
                    fresh.entry(column).or_default().push(Replacement { owner, before: sealed, after });
                } else {
                    done.unopened.push(SealedPlace { column, owner });
                }
            }
            if fresh.is_empty() {
                break;
            }
            for (column, values) in &fresh {
                for values in values.chunks(AT_ONCE) {
                    changed += self.write_resealed(column, values).await?;
                }
            }
        }
        done.unchanged = done.unchanged.saturating_sub(changed);
        Ok(Resealed { changed, ..done })
    }

    /// How many values each key has sealed, by the key's id; `None` for those that have no known form.
    pub async fn sealed_by(&self) -> Result<BTreeMap<Option<String>, usize>, StoreError> {
        let mut found = BTreeMap::new();
        for value in self.sealed_values().await? {
            *found.entry(Seal::key_id_of(&value.sealed)).or_default() += 1;
        }
        Ok(found)
    }

    async fn sealed_values(&self) -> Result<Vec<SealedValue>, StoreError> {
        let values = sqlx::query_as!(
            SealedValue,
            r#"-- sealed_values
            SELECT place AS "column!", owner AS "owner!", sealed AS "sealed!" FROM (
                SELECT 'client.secret' AS place, id AS owner, secret AS sealed FROM client
                UNION ALL SELECT 'client.previous_secret', id, previous_secret FROM client WHERE previous_until > now()
                UNION ALL SELECT 'webhook_endpoint.secret', id, secret FROM webhook_endpoint
                UNION ALL SELECT 'webhook_endpoint.previous_secret', id, previous_secret FROM webhook_endpoint WHERE previous_until > now()
                UNION ALL SELECT 'webhook_endpoint.headers', id, headers FROM webhook_endpoint
            ) AS stored WHERE sealed IS NOT NULL"#
        )
        .fetch_all(self.once())
        .await?;
        Ok(values)
    }

    /// Writes values of one place. Returns how many were still as they had been read.
    async fn write_resealed(&self, column: &str, values: &[Replacement]) -> Result<usize, StoreError> {
        let owners: Vec<Uuid> = values.iter().map(|value| value.owner).collect();
        let before: Vec<Vec<u8>> = values.iter().map(|value| value.before.clone()).collect();
        let after: Vec<Vec<u8>> = values.iter().map(|value| value.after.clone()).collect();
        let written = sqlx::query_scalar!(
            r#"-- write_resealed
            WITH v AS (SELECT * FROM unnest($2::uuid[], $3::bytea[], $4::bytea[]) AS v (id, before, after)),
            a AS (UPDATE client t SET secret = after FROM v WHERE $1 = 'client.secret' AND t.id = v.id AND secret = before RETURNING 1),
            b AS (UPDATE client t SET previous_secret = after FROM v WHERE $1 = 'client.previous_secret' AND t.id = v.id AND previous_secret = before RETURNING 1),
            c AS (UPDATE webhook_endpoint t SET secret = after FROM v WHERE $1 = 'webhook_endpoint.secret' AND t.id = v.id AND secret = before RETURNING 1),
            d AS (UPDATE webhook_endpoint t SET previous_secret = after FROM v WHERE $1 = 'webhook_endpoint.previous_secret' AND t.id = v.id AND previous_secret = before RETURNING 1),
            e AS (UPDATE webhook_endpoint t SET headers = after FROM v WHERE $1 = 'webhook_endpoint.headers' AND t.id = v.id AND headers = before RETURNING 1)
            SELECT (SELECT count(*) FROM a) + (SELECT count(*) FROM b) + (SELECT count(*) FROM c) + (SELECT count(*) FROM d)
                 + (SELECT count(*) FROM e) AS "written!""#,
            column,  // $1 place
            &owners, // $2 ids
            &before, // $3 before
            &after,  // $4 after
        )
        .fetch_one(self.once())
        .await?;
        Ok(usize::try_from(written).expect("a count is not negative"))
    }
}
