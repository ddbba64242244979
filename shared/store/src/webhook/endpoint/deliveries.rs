//! What is on its way to an endpoint, what came of the rest, and how the endpoint answers.

use chrono::{DateTime, Utc};

use crate::client::scope::Scope;
use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::id::{DeliveryId, EndpointId, JobId};
use crate::webhook::lane::{LaneHealth, OPENS_AT};
use crate::webhook::view::{DeliveryFilter, DeliveryState};

/// Deliveries that wait are counted up to here.
pub const COUNTED_PENDING: i64 = 1_000;

/// How an endpoint answers, and what waits for it.
#[derive(Debug)]
pub struct EndpointHealth {
    pub lane: LaneHealth,
    /// It failed so often that only one webhook at a time tries it out.
    pub is_open: bool,
    /// Until then nothing is sent there.
    pub held_until: Option<DateTime<Utc>>,
    /// The code of its last failure, if it failed since it last succeeded.
    pub last_error: Option<String>,
    /// Deliveries that have not ended, up to [`COUNTED_PENDING`].
    pub pending: i64,
    /// Since when the oldest of them is due.
    pub oldest_due_at: Option<DateTime<Utc>>,
}

/// One webhook to an endpoint, with its last attempt.
#[derive(Debug)]
pub struct EndpointDelivery {
    pub id: DeliveryId,
    pub job: JobId,
    pub seq: i32,
    /// The state that the webhook tells of.
    pub event: String,
    pub state: DeliveryState,
    pub attempts: i16,
    pub next_attempt_at: Option<DateTime<Utc>>,
    pub last_attempt_at: Option<DateTime<Utc>>,
    pub status: Option<i16>,
    pub error_code: Option<String>,
}

impl Store {
    pub async fn endpoint_health(&self, id: EndpointId) -> Result<EndpointHealth, StoreError> {
        let row = sqlx::query!(
            r#"-- endpoint_health
            SELECT l.healthy AS "healthy?", l.failures >= $3 AS is_open, l.last_error AS "last_error?",
                   CASE WHEN l.not_before > now() THEN l.not_before END AS held_until,
                   (SELECT count(*) FROM (SELECT FROM webhook_delivery WHERE lane_id = $1 LIMIT $2) AS waiting)
                   AS "pending!",
                   (SELECT next_attempt_at FROM webhook_delivery WHERE lane_id = $1 AND next_attempt_at <= now()
                    ORDER BY next_attempt_at LIMIT 1) AS oldest_due_at
            FROM (VALUES (1)) AS once
            LEFT JOIN (SELECT * FROM webhook_lane WHERE id = $1) AS l ON true"#,
            id.uuid(),
            COUNTED_PENDING,
            OPENS_AT,
        )
        .fetch_one(self.once())
        .await?;
        Ok(EndpointHealth {
            lane: LaneHealth::from_column(row.healthy),
            is_open: row.is_open == Some(true),
            held_until: row.held_until,
            last_error: row.last_error.filter(|_| row.healthy != Some(true) || row.held_until.is_some()),
            pending: row.pending,
            oldest_due_at: row.oldest_due_at,
        })
    }

    /// At most `limit` deliveries to an endpoint, the newest first. `None` without such an endpoint.
    pub async fn endpoint_deliveries(
        &self,
        scope: Scope,
        id: EndpointId,
        filter: &DeliveryFilter,
        limit: usize,
    ) -> Result<Option<Vec<EndpointDelivery>>, StoreError> {
        if self.endpoint(scope, id).await?.is_none() {
            return Ok(None);
        }
        let rows = sqlx::query!(
            r#"-- endpoint_deliveries
            WITH page AS MATERIALIZED (
                (SELECT id, job_id, seq, NULL::text AS outcome, attempts, next_attempt_at
                 FROM webhook_delivery
                 WHERE coalesce($2, 'pending') = 'pending' AND lane_id = $1
                   AND id < $4 AND id >= ulid_floor(greatest($3::timestamptz, 'epoch'))
                 ORDER BY id DESC LIMIT $5)
                UNION ALL
                (SELECT delivery_id, job_id, seq, outcome, attempt, NULL
                 FROM webhook_attempt
                 WHERE coalesce($2, outcome) = outcome AND endpoint_id = $1 AND outcome <> 'retry'
                   AND delivery_id < $4 AND delivery_id >= ulid_floor(greatest($3::timestamptz, 'epoch'))
                 ORDER BY endpoint_id, delivery_id DESC LIMIT $5)
                ORDER BY id DESC LIMIT $5
            )
            SELECT p.id AS "id!: DeliveryId", p.job_id AS "job!: JobId", p.seq AS "seq!", e.state AS event, p.outcome,
                   p.attempts AS "attempts!", p.next_attempt_at, a.at AS "last_attempt_at?", a.status AS "status?",
                   a.error_code
            FROM page p
            CROSS JOIN LATERAL (SELECT state FROM job_event WHERE job_id = p.job_id AND seq = p.seq LIMIT 1) AS e
            LEFT JOIN LATERAL (
                SELECT at, status, error_code FROM webhook_attempt
                WHERE job_id = p.job_id AND delivery_id = p.id ORDER BY attempt DESC LIMIT 1
            ) AS a ON true
            ORDER BY p.id DESC"#,
            id.uuid(),                                                // $1 endpoint_id
            filter.state.map(DeliveryState::as_str),                  // $2 state
            filter.since,                                             // $3 since
            filter.after.unwrap_or(DeliveryId::MAX).uuid(),           // $4 after
            i64::try_from(limit).unwrap_or(i64::MAX),                 // $5 limit
        )
        .fetch_all(self.once())
        .await?;
        let deliveries = rows.into_iter().map(|row| EndpointDelivery {
            id: row.id,
            job: row.job,
            seq: row.seq,
            event: row.event,
            state: match row.outcome.as_deref() {
                Some("delivered") => DeliveryState::Delivered,
                Some(_) => DeliveryState::Failed,
                None => DeliveryState::Pending,
            },
            attempts: row.attempts,
            next_attempt_at: row.next_attempt_at,
            last_attempt_at: row.last_attempt_at,
            status: row.status,
            error_code: row.error_code,
        });
        Ok(Some(deliveries.collect()))
    }
}
