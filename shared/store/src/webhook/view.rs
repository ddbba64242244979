//! The deliveries of a job as its owner sees them, and sending one of them again.

use std::str::FromStr;

use chrono::{DateTime, Utc};

use crate::client::scope::Scope;
use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::db::wake::Write;
use crate::id::{DeliveryId, JobId};
use crate::job::state::JobState;
use crate::webhook::receiver::query_with_receivers;

/// One webhook to one receiver.
#[derive(Debug)]
pub struct DeliveryView {
    pub id: DeliveryId,
    pub seq: i32,
    /// The state that the webhook tells of.
    pub event: JobState,
    pub url: String,
    pub state: DeliveryState,
    /// When it is tried next, or when the present attempt was due; `None` once it has ended.
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// Until then nothing is sent to its receiver, whatever `next_attempt_at` says. `None` once the delivery has ended.
    pub held_until: Option<DateTime<Utc>>,
    pub attempts: Vec<AttemptView>,
}

/// A part of a job's deliveries.
#[derive(Debug)]
pub struct DeliveryPage {
    pub deliveries: Vec<DeliveryView>,
    /// Whether more follow the last one.
    pub has_more: bool,
}

/// Whether a delivery has ended, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryState {
    Pending,
    Delivered,
    Failed,
}

impl DeliveryState {
    /// The name in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
        }
    }
}

/// Which deliveries to list.
#[derive(Debug, Default)]
pub struct DeliveryFilter {
    pub state: Option<DeliveryState>,
    /// Those made from this moment on.
    pub since: Option<DateTime<Utc>>,
    /// Those behind this one, the last of the page before.
    pub after: Option<DeliveryId>,
}

/// No state of a delivery has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a delivery is pending, delivered or failed")]
pub struct UnknownDeliveryState;

impl FromStr for DeliveryState {
    type Err = UnknownDeliveryState;

    fn from_str(text: &str) -> Result<Self, UnknownDeliveryState> {
        [Self::Pending, Self::Delivered, Self::Failed]
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or(UnknownDeliveryState)
    }
}

/// One attempt, or the entry that ended a delivery unsent.
#[derive(Debug)]
pub struct AttemptView {
    pub attempt: i16,
    pub at: DateTime<Utc>,
    pub status: Option<i16>,
    pub error_code: Option<String>,
    pub latency_ms: Option<i32>,
    /// The first bytes of the answer.
    pub response: Option<Vec<u8>>,
}

/// The answer to a request to send a webhook again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redelivery {
    /// It is due now, under this id: its own if it was still pending.
    Due(DeliveryId),
    /// It is on its way at this moment.
    BeingSent,
    /// The same event went to the same receiver [`DELIVERIES_PER_EVENT_AND_MINUTE`] times within the last minute.
    TooSoon,
    /// Its endpoint was deleted.
    ReceiverDeleted,
    /// No such delivery.
    Missing,
}

/// How often an event may go to one receiver within a minute: enough to try a receiver out by hand, too little to flood
/// one with requests to send again.
pub const DELIVERIES_PER_EVENT_AND_MINUTE: i64 = 5;

impl Store {
    /// At most `limit` deliveries of a job in the order of its events, or `None` without such a job.
    ///
    /// A client may ask for redeliveries without end, so the whole list has no bound.
    pub async fn deliveries(
        &self,
        scope: Scope,
        job: JobId,
        filter: &DeliveryFilter,
        limit: usize,
    ) -> Result<Option<DeliveryPage>, StoreError> {
        let rows = query_with_receivers!(
            r#"-- deliveries
            WITH every AS MATERIALIZED (
                SELECT id, seq, lane_id, next_attempt_at, 'pending' AS state FROM webhook_delivery WHERE job_id = $1
                UNION ALL
                SELECT delivery_id, seq, lane_id, NULL, outcome FROM webhook_attempt WHERE job_id = $1 AND outcome <> 'retry'
            ), page AS MATERIALIZED (
                SELECT id, seq, lane_id, next_attempt_at FROM every
                WHERE ($3::uuid IS NULL OR (seq, id) > (SELECT seq, id FROM every WHERE id = $3))
                  AND state = coalesce($5, state) AND id >= ulid_floor(greatest($6::timestamptz, 'epoch'))
                ORDER BY seq, id LIMIT $4
            )
            SELECT d.id AS "id?: DeliveryId", d.seq AS "seq?", d.next_attempt_at AS "next_attempt_at?",
                   held.not_before AS "held_until?",
                   coalesce(a.state, e.state) AS "event: JobState", coalesce(a.url, receiver.url) AS url,
                   a.attempt AS "attempt?", a.at AS "at?", a.outcome AS "outcome?", a.status, a.error_code,
                   a.latency_ms, a.response
            FROM job j
            LEFT JOIN page d ON true
            LEFT JOIN "# + RECEIVER OF "d.lane_id" + r#" ON true
            LEFT JOIN LATERAL (
                SELECT * FROM webhook_attempt WHERE job_id = $1 AND delivery_id = d.id OFFSET 0
            ) AS a ON true
            LEFT JOIN LATERAL (SELECT state FROM job_event WHERE job_id = $1 AND seq = d.seq OFFSET 0) AS e ON true
            LEFT JOIN LATERAL (
                SELECT not_before FROM webhook_lane
                WHERE d.next_attempt_at IS NOT NULL AND id = d.lane_id AND not_before > now() LIMIT 1
            ) AS held ON true
            WHERE j.id = $1 AND ($2::uuid IS NULL OR j.client_id = $2)
            ORDER BY d.seq, d.id, a.attempt"#,
            job.uuid(),
            scope.client(),
            filter.after.map(DeliveryId::uuid),
            i64::try_from(limit).unwrap_or(i64::MAX - 1) + 1,
            filter.state.map(DeliveryState::as_str),
            filter.since,
        )
        .fetch_all(self.once())
        .await?;
        if rows.is_empty() {
            return Ok(None);
        }
        let mut deliveries: Vec<DeliveryView> = Vec::new();
        for row in rows {
            // The one row of a job without deliveries.
            let (Some(id), Some(seq), Some(event), Some(url)) = (row.id, row.seq, row.event, row.url) else {
                continue;
            };
            if deliveries.last().is_none_or(|last| last.id != id) {
                deliveries.push(DeliveryView {
                    id,
                    seq,
                    event,
                    url,
                    state: DeliveryState::Pending,
                    next_attempt_at: row.next_attempt_at,
                    held_until: row.held_until,
                    attempts: Vec::new(),
                });
            }
            let Some(delivery) = deliveries.last_mut() else { continue };
            delivery.state = match row.outcome.as_deref() {
                Some("delivered") => DeliveryState::Delivered,
                Some("failed") => DeliveryState::Failed,
                _ => DeliveryState::Pending,
            };
            if let (Some(attempt), Some(at)) = (row.attempt, row.at) {
                delivery.attempts.push(AttemptView {
                    attempt,
                    at,
                    status: row.status,
                    error_code: row.error_code,
                    latency_ms: row.latency_ms,
                    response: row.response,
                });
            }
        }
        let has_more = deliveries.len() > limit;
        deliveries.truncate(limit);
        Ok(Some(DeliveryPage { deliveries, has_more }))
    }

    /// Makes a delivery due now: one that waits is brought forward, one that has ended is begun anew.
    pub async fn redeliver(&self, scope: Scope, delivery: DeliveryId) -> Result<Redelivery, StoreError> {
        let redelivery = match self.bring_forward(scope, delivery).await? {
            Some(pending) => pending,
            None => self.deliver_again(scope, delivery).await?,
        };
        if let Redelivery::Due(_) = redelivery {
            self.tell([Write::Redelivered]);
        }
        Ok(redelivery)
    }

    /// `None` if no such delivery is pending.
    async fn bring_forward(
        &self,
        scope: Scope,
        delivery: DeliveryId,
    ) -> Result<Option<Redelivery>, StoreError> {
        // Nobody holds a claim whose end has passed.
        let pending = sqlx::query!(
            r#"-- bring_forward
            WITH pending AS MATERIALIZED (
                SELECT d.id, d.claim_no IS NULL OR d.claimed_until <= now() AS free
                FROM webhook_delivery d
                WHERE d.id = $1 AND EXISTS (
                    SELECT FROM job j WHERE j.id = d.job_id AND ($2::uuid IS NULL OR j.client_id = $2))
                FOR UPDATE
            ), brought AS (
                UPDATE webhook_delivery d SET next_attempt_at = least(d.next_attempt_at, now())
                FROM pending p WHERE d.id = p.id AND p.free
            )
            SELECT free AS "free!" FROM pending"#,
            delivery.uuid(),
            scope.client(),
        )
        .fetch_optional(self.once())
        .await?;
        Ok(pending.map(|row| if row.free { Redelivery::Due(delivery) } else { Redelivery::BeingSent }))
    }

    /// Makes a new delivery of one that has ended, unless one like that is still pending, or nothing is sent to its receiver any
    /// more. The row of a deleted endpoint goes some day, so a receiver without a row is a deleted endpoint too.
    async fn deliver_again(&self, scope: Scope, delivery: DeliveryId) -> Result<Redelivery, StoreError> {
        // Of two that ask at the same time, the second waits here, and then sees what the first has made.
        let mut conn = self.open_transaction().await?;
        sqlx::query!(
            "-- lock_job_of_delivery
            SELECT FROM job WHERE id IN (SELECT job_id FROM webhook_attempt WHERE delivery_id = $1) FOR UPDATE",
            delivery.uuid(),
        )
        .execute(&mut conn)
        .await?;
        // The lane may have been pruned since. The id of a delivery contains the time at which it was made, so `recent`
        // reads the job's deliveries of the last minute and no others.
        let found = query_with_receivers!(
            r#"-- deliver_again
            WITH ended AS MATERIALIZED (
                SELECT a.job_id, a.seq, a.lane_id, a.state, j.client_id, receiver.origin,
                       receiver.deleted IS DISTINCT FROM false AS receiver_deleted
                FROM webhook_attempt a
                CROSS JOIN LATERAL (SELECT * FROM job WHERE id = a.job_id LIMIT 1) AS j
                LEFT JOIN "# + RECEIVER OF "a.lane_id" + r#" ON true
                WHERE a.delivery_id = $1 AND a.outcome <> 'retry' AND ($2::uuid IS NULL OR j.client_id = $2)
            ), lane AS (
                INSERT INTO webhook_lane (id, client_id, origin)
                SELECT lane_id, client_id, origin FROM ended WHERE NOT receiver_deleted
                ON CONFLICT DO NOTHING
            ), pending AS MATERIALIZED (
                SELECT d.id FROM webhook_delivery d
                JOIN ended e ON d.job_id = e.job_id AND d.lane_id = e.lane_id AND d.seq = e.seq
                LIMIT 1
            ), recent AS MATERIALIZED (
                SELECT count(*) AS deliveries
                FROM ended e
                JOIN webhook_attempt a ON a.job_id = e.job_id AND a.lane_id = e.lane_id AND a.seq = e.seq
                WHERE a.delivery_id >= ulid_floor(now() - interval '1 minute') AND a.outcome <> 'retry'
            ), again AS (
                INSERT INTO webhook_delivery (lane_id, job_id, seq, terminal, redelivery, next_attempt_at)
                SELECT lane_id, job_id, seq, state IN ('done', 'failed', 'cancelled', 'expired'), true, now()
                FROM ended, recent
                WHERE NOT receiver_deleted AND NOT EXISTS (SELECT FROM pending) AND recent.deliveries < $3
                RETURNING id
            )
            SELECT (SELECT id FROM again UNION ALL SELECT id FROM pending) AS "id: DeliveryId",
                   receiver_deleted AS "receiver_deleted!"
            FROM ended"#,
            delivery.uuid(),
            scope.client(),
            DELIVERIES_PER_EVENT_AND_MINUTE,
        )
        .fetch_optional(&mut conn)
        .await?;
        conn.done().await?;
        Ok(match found {
            None => Redelivery::Missing,
            Some(row) if row.receiver_deleted => Redelivery::ReceiverDeleted,
            Some(row) => row.id.map_or(Redelivery::TooSoon, Redelivery::Due),
        })
    }
}
