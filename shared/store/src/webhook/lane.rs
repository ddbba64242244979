//! Finds the lanes that have webhooks to send, without reading the webhooks.

use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};

use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::id::{ClientId, LaneId};

/// A lane that was seen before. As far as the caller knows, none of its deliveries is due before `since`. Index entries
/// before that belong to deliveries long gone, which Postgres keeps while somebody holds an old snapshot (a backup, say).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownLane {
    pub lane: LaneId,
    pub since: DateTime<Utc>,
}

/// A lane with the first delivery that nobody holds, due or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneHead {
    pub lane: LaneId,
    /// `None` if the lane's row was pruned, here and in `origin`.
    pub client: Option<ClientId>,
    /// `scheme://host[:port]`.
    pub origin: Option<String>,
    pub health: LaneHealth,
    /// It belongs to a disabled endpoint, so nothing is claimed there for now.
    pub is_disabled: bool,
    pub first_at: DateTime<Utc>,
    /// Until then the lane is held back.
    pub opens_at: Option<DateTime<Utc>>,
}

/// This many failures in a row open a lane: only one delivery at a time tries it out, and no failure is counted.
pub(crate) const OPENS_AT: i32 = 10;

/// What is known of how a receiver answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaneHealth {
    /// No attempt has succeeded yet and hardly any failed, or the lane's row was pruned since.
    NeverTried,
    /// It takes webhooks. Some may fail among many.
    Proven,
    /// The last three attempts failed.
    Failing,
}

impl LaneHealth {
    /// From `webhook_lane.healthy`, which is NULL until the lane is proven or failing.
    pub(crate) fn from_column(healthy: Option<bool>) -> Self {
        match healthy {
            None => Self::NeverTried,
            Some(true) => Self::Proven,
            Some(false) => Self::Failing,
        }
    }
}

/// What a look at the lanes found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lanes {
    /// Postgres' time at the look.
    pub now: DateTime<Utc>,
    pub heads: Vec<LaneHead>,
}

impl LaneHead {
    /// How long until it may be claimed; zero if it is due.
    pub fn due_in(&self, now: DateTime<Utc>) -> Duration {
        let claimable_at = self.opens_at.map_or(self.first_at, |opens_at| opens_at.max(self.first_at));
        (claimable_at - now).to_std().unwrap_or_default()
    }
}

impl Store {
    /// The first delivery that nobody holds, of every lane that has one. This costs one or two descents of an index per
    /// lane, however many deliveries there are.
    ///
    /// In a known lane the look skips the dead entries. The other lanes are found in the gaps between the known ones, by
    /// their first entry, live or dead. So every lane is found, whichever are known.
    pub async fn look_at_lanes(&self, known: &[KnownLane]) -> Result<Lanes, StoreError> {
        let lanes: Vec<_> = known.iter().map(|known| known.lane.uuid()).collect();
        let since: Vec<_> = known.iter().map(|known| known.since).collect();
        let mut conn = self.open().await?;
        let asked = SystemTime::now();
        let rows = sqlx::query!(
            r#"-- look_at_lanes
            WITH RECURSIVE known AS MATERIALIZED (
                SELECT lane_id, since, lead(lane_id) OVER (ORDER BY lane_id) AS next
                FROM unnest($1::uuid[], $2::timestamptz[]) AS t (lane_id, since)
            ), gap AS (
                SELECT lane_id AS low, coalesce(next, 'ffffffff-ffff-ffff-ffff-ffffffffffff') AS high FROM known
                UNION ALL
                SELECT '00000000-0000-0000-0000-000000000000',
                       coalesce((SELECT lane_id FROM known ORDER BY lane_id LIMIT 1),
                                'ffffffff-ffff-ffff-ffff-ffffffffffff')
            ), unknown AS (
                SELECT d.lane_id, d.next_attempt_at, gap.high
                FROM gap CROSS JOIN LATERAL (
                    SELECT lane_id, next_attempt_at FROM webhook_delivery
                    WHERE lane_id > gap.low AND lane_id < gap.high AND (claim_no IS NULL OR claimed_until <= now())
                    ORDER BY lane_id, next_attempt_at LIMIT 1
                ) AS d
                UNION ALL
                SELECT d.lane_id, d.next_attempt_at, unknown.high
                FROM unknown CROSS JOIN LATERAL (
                    SELECT lane_id, next_attempt_at FROM webhook_delivery
                    WHERE lane_id > unknown.lane_id AND lane_id < unknown.high
                      AND (claim_no IS NULL OR claimed_until <= now())
                    ORDER BY lane_id, next_attempt_at LIMIT 1
                ) AS d
            ), head AS (
                SELECT lane_id, next_attempt_at FROM unknown
                UNION ALL
                SELECT known.lane_id, d.next_attempt_at
                FROM known CROSS JOIN LATERAL (
                    SELECT next_attempt_at FROM webhook_delivery
                    WHERE lane_id = known.lane_id AND next_attempt_at >= known.since
                      AND (claim_no IS NULL OR claimed_until <= now())
                    ORDER BY next_attempt_at LIMIT 1
                ) AS d
            )
            SELECT now() AS "now!", head.lane_id AS "lane?: LaneId", head.next_attempt_at AS "first_at?",
                   l.client_id AS "client?: ClientId", l.origin AS "origin?", l.healthy AS "healthy?",
                   w.disabled_at IS NOT NULL AS "is_disabled!",
                   greatest(l.not_before, l.next_slot_at + slots.spacing) AS "opens_at?"
            FROM (VALUES (1)) AS once
            LEFT JOIN head ON true
            LEFT JOIN LATERAL (
                SELECT client_id, origin, healthy, not_before, next_slot_at FROM webhook_lane
                WHERE id = head.lane_id LIMIT 1
            ) AS l ON true
            LEFT JOIN LATERAL (
                SELECT disabled_at, rate_limit FROM webhook_endpoint WHERE id = head.lane_id LIMIT 1
            ) AS w ON true
            LEFT JOIN LATERAL rate_slots(w.rate_limit) AS slots ON true"#,
            &lanes,
            &since,
        )
        .fetch_all(&mut conn)
        .await?;
        conn.done().await?;
        let now = rows.first().map_or_else(|| self.clock().now(), |row| row.now);
        self.clock().learn(asked, now);
        let heads = rows.into_iter().filter_map(|row| {
            Some(LaneHead {
                lane: row.lane?,
                client: row.client,
                origin: row.origin,
                health: LaneHealth::from_column(row.healthy),
                is_disabled: row.is_disabled,
                first_at: row.first_at?,
                opens_at: row.opens_at,
            })
        });
        Ok(Lanes { now, heads: heads.collect() })
    }
}
