//! Sending an endpoint what it has not got.

use chrono::{DateTime, Utc};

use crate::client::scope::Scope;
use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::db::wake::Write;
use crate::id::{EndpointId, JobId};
use crate::webhook::endpoint::lock_endpoint;
use crate::webhook::receiver::query_with_receivers;

/// What a part of a recovery did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovered {
    /// How many webhooks were made.
    pub deliveries: u64,
    /// Where the next part begins; `None` after the last one.
    pub next: Option<JobId>,
}

impl Store {
    /// Makes a webhook of every event since `since` that the endpoint wants by its present filters, was never delivered to
    /// it, and is not on its way already. Looks at `limit` jobs from behind `after` on. `None` without such an endpoint.
    ///
    /// The new webhooks of a job keep their order, and those that wait already come after them. An event that comes after
    /// one of a higher number is the stated exception from the order.
    pub async fn recover(
        &self,
        scope: Scope,
        id: EndpointId,
        since: DateTime<Utc>,
        after: Option<JobId>,
        limit: i64,
    ) -> Result<Option<Recovered>, StoreError> {
        let mut conn = self.open_transaction().await?;
        // Two recoveries at once would each make the same webhooks. The second statement sees what the first one wrote.
        let Some(client) = lock_endpoint(&mut conn, scope, id).await? else { return Ok(None) };
        let row = query_with_receivers!(
            r#"-- recover_deliveries
            WITH jobs AS MATERIALIZED (
                SELECT id, client_id, model_label, webhook_lane, webhook_origin, webhook_url, webhook_events
                FROM job
                WHERE client_id BETWEEN $1 AND $1 AND id > $4
                ORDER BY client_id DESC, id LIMIT $5
            ), missing AS MATERIALIZED (
                SELECT e.job_id, e.seq, e.state, e.at, receiver.lane_id, receiver.origin
                FROM jobs j
                CROSS JOIN "# + RECEIVER OF "$2" + r#"
                CROSS JOIN LATERAL (
                    SELECT job_id, seq, state, at FROM job_event WHERE job_id = j.id AND at >= $3 OFFSET 0
                ) AS e
                WHERE (receiver.events IS NULL OR e.state = ANY(receiver.events))
                  AND (receiver.models IS NULL OR lower(j.model_label) = ANY(receiver.models))
                  AND NOT EXISTS (SELECT FROM webhook_delivery d
                                  WHERE d.job_id = e.job_id AND (d.lane_id = $2) IS TRUE AND d.seq = e.seq)
                  AND NOT EXISTS (SELECT FROM webhook_attempt a
                                  WHERE a.job_id = e.job_id AND a.seq = e.seq AND (a.lane_id = $2) IS TRUE
                                    AND a.outcome = 'delivered')
            ), lane AS (
                INSERT INTO webhook_lane (id, client_id, origin)
                SELECT DISTINCT lane_id, $1::uuid, origin FROM missing
                ON CONFLICT DO NOTHING
            ), made AS (
                INSERT INTO webhook_delivery (lane_id, job_id, seq, terminal, next_attempt_at)
                SELECT lane_id, job_id, seq, state IN ('done', 'failed', 'cancelled', 'expired'),
                       now() + row_number() OVER (ORDER BY at, job_id, seq) * interval '1 microsecond'
                FROM missing
                RETURNING 1
            )
            SELECT (SELECT count(*) FROM made) AS "deliveries!",
                   CASE WHEN (SELECT count(*) FROM jobs) >= $5 THEN (SELECT id FROM jobs ORDER BY id DESC LIMIT 1) END
                   AS "next: JobId""#,
            client.uuid(),                              // $1 client_id
            id.uuid(),                                  // $2 lane_id
            since,                                      // $3 since
            after.map_or(uuid::Uuid::nil(), JobId::uuid), // $4 after
            limit,                                      // $5 limit
        )
        .fetch_one(&mut conn)
        .await?;
        conn.done().await?;
        if row.deliveries > 0 {
            self.tell([Write::Redelivered]);
        }
        Ok(Some(Recovered { deliveries: row.deliveries.unsigned_abs(), next: row.next }))
    }
}
