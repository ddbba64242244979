//! How many bytes of request bodies each client has stored today. The apis tell each other through this table.
//!
//! Each api counts in memory the bytes that it accepts, and from time to time writes its sums, each into a row of its
//! own. So no two writers wait for one row, and the accept path does not use this table.

use std::collections::HashMap;

use chrono::NaiveDate;

use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::id::{ApiId, ClientId};

impl Store {
    /// Writes how much this api has accepted from each client on this day. Returns how much the other apis have
    /// accepted.
    pub async fn tell_stored_bytes(
        &self,
        api: ApiId,
        day: NaiveDate,
        own: &[(ClientId, u64)],
    ) -> Result<HashMap<ClientId, u64>, StoreError> {
        let clients: Vec<_> = own.iter().map(|(client, _)| client.uuid()).collect();
        let bytes: Vec<_> = own.iter().map(|(_, bytes)| i64::try_from(*bytes).unwrap_or(i64::MAX)).collect();
        let rows = sqlx::query!(
            r#"-- tell_stored_bytes
            WITH own AS MATERIALIZED (
                SELECT * FROM unnest($3::uuid[], $4::bigint[]) AS t (client_id, bytes)
            ), told AS (
                INSERT INTO stored_bytes AS s (client_id, day, api_id, bytes)
                SELECT client_id, $2, $1, bytes FROM own ORDER BY client_id
                ON CONFLICT (client_id, day, api_id) DO UPDATE SET bytes = greatest(s.bytes, excluded.bytes)
            )
            SELECT own.client_id AS "client!: ClientId", others.bytes AS "bytes!"
            FROM own
            CROSS JOIN LATERAL (
                SELECT coalesce(sum(s.bytes), 0)::bigint AS bytes FROM stored_bytes s
                WHERE s.client_id = own.client_id AND s.day = $2 AND s.api_id <> $1
            ) AS others"#,
            api.uuid(),
            day,
            &clients,
            &bytes,
        )
        .fetch_all(self.once())
        .await?;
        Ok(rows.into_iter().map(|row| (row.client, row.bytes.unsigned_abs())).collect())
    }

    /// Deletes the sums of days before yesterday, at most `limit`. Returns how many.
    pub async fn prune_stored_bytes(&self, limit: i64) -> Result<u64, StoreError> {
        let pruned = sqlx::query!(
            r#"-- prune_stored_bytes
            WITH old AS MATERIALIZED (
                SELECT client_id, day, api_id FROM stored_bytes
                WHERE day < (now() AT TIME ZONE 'UTC')::date - 1 ORDER BY day LIMIT $1 FOR UPDATE SKIP LOCKED
            )
            DELETE FROM stored_bytes s USING old o
            WHERE s.client_id = o.client_id AND s.day = o.day AND s.api_id = o.api_id"#,
            limit,
        )
        .execute(self.once())
        .await?;
        Ok(pruned.rows_affected())
    }
}
