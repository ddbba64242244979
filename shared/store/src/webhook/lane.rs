//! Finds the lanes that have webhooks to send, without reading the webhooks.

use std::time::{Duration, SystemTime};

use chrono::{DateTime, TimeDelta, Utc};
use ulid::Ulid;
use uuid::Uuid;

use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::id::{ClientId, DeliveryId, LaneId};

/// A lane that was seen before. As far as the caller knows, none of its deliveries is due before `since`. Index entries
/// before that belong to deliveries long gone, which Postgres keeps while somebody holds an old snapshot (a backup, say).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownLane {
    pub lane: LaneId,
    pub since: DateTime<Utc>,
}

/// What a look visits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneSearch {
    pub known: Vec<KnownLane>,
    /// Also the lanes of deliveries with this id or a later one.
    pub made_since: DeliveryId,
    /// Also the lanes between these two, whoever knows of them.
    pub after: LaneId,
    pub before: LaneId,
}

impl LaneSearch {
    /// No lane has one of these ids.
    pub const ENDS: (LaneId, LaneId) = (LaneId(Uuid::nil()), LaneId(Uuid::max()));

    /// Whether a look would find nothing, whatever there is.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty() && self.made_since == DeliveryId::MAX && self.after >= self.before
    }

    /// Only these lanes.
    pub fn of(known: Vec<KnownLane>) -> Self {
        let (_, last) = Self::ENDS;
        Self { known, made_since: DeliveryId::MAX, after: last, before: last }
    }

    /// These lanes, and all others.
    pub fn everywhere(known: Vec<KnownLane>) -> Self {
        let (after, before) = Self::ENDS;
        Self { after, before, ..Self::of(known) }
    }
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
    /// No attempt has succeeded yet and hardly any failed, or its answers have no end, or the lane's row was pruned since.
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
    /// Where the next look goes on to search for new deliveries.
    pub made_since: DeliveryId,
    /// There are more new deliveries than a look reads.
    pub has_more_new: bool,
    /// There may be more unknown lanes in the part that was searched.
    pub is_cut: bool,
}

impl LaneHead {
    /// How long until it may be claimed; zero if it is due.
    pub fn due_in(&self, now: DateTime<Utc>) -> Duration {
        (self.claimable_at() - now).to_std().unwrap_or_default()
    }

    /// When it may be claimed, unless its endpoint is disabled.
    pub fn claimable_at(&self) -> DateTime<Utc> {
        self.opens_at.map_or(self.first_at, |opens_at| opens_at.max(self.first_at))
    }
}

/// A look reads at most this many new deliveries. More of them would keep those waiting who come next.
const NEW_AT_MOST: i64 = 256;

/// A look finds at most this many unknown lanes between two known ones.
const FOUND_AT_MOST: i32 = 256;

/// The bits of a delivery's id that tell in which turn of the relay it was made: the time to a quarter of a microsecond.
const TURN: u128 = !0 << 68;

/// A turn of the relay takes less time than this, unless Postgres is slow. So a delivery that was made this long ago is visible,
/// or was undone. One that becomes visible even later is found by the search through all lanes.
const LONGEST_TURN: TimeDelta = TimeDelta::seconds(2);

impl Store {
    /// The first delivery that nobody holds, of each lane in the search that has one. This costs a descent of an index per
    /// lane, one per new delivery, and one more per known lane in the part that is searched for unknown ones.
    ///
    /// In a known lane the look skips the dead entries. Unknown lanes are found in the gaps between the known ones, by their
    /// first entry, live or dead. So every lane of the part is found, whichever are known. Of a lane that is in the search
    /// only because of a new delivery, the look sees the new deliveries alone.
    pub async fn look_at_lanes(&self, search: &LaneSearch) -> Result<Lanes, StoreError> {
        let lanes: Vec<_> = search.known.iter().map(|known| known.lane.uuid()).collect();
        let since: Vec<_> = search.known.iter().map(|known| known.since).collect();
        let mut conn = self.open().await?;
        let asked = SystemTime::now();
        let rows = sqlx::query!(
            r#"-- look_at_lanes
            WITH RECURSIVE known AS MATERIALIZED (
                SELECT lane_id, since FROM unnest($1::uuid[], $2::timestamptz[]) AS t (lane_id, since)
            ), made AS MATERIALIZED (
                SELECT id, lane_id, next_attempt_at, claim_no FROM webhook_delivery
                WHERE id >= $3 ORDER BY id LIMIT $4
            ), gap AS (
                SELECT lane_id AS low, lead(lane_id, 1, $6::uuid) OVER (ORDER BY lane_id) AS high
                FROM (SELECT $5::uuid AS lane_id
                      UNION ALL
                      SELECT lane_id FROM known WHERE lane_id > $5 AND lane_id < $6) AS ends
            ), unknown AS (
                SELECT d.lane_id, d.next_attempt_at, gap.high, 1 AS nth
                FROM gap CROSS JOIN LATERAL (
                    SELECT lane_id, next_attempt_at FROM webhook_delivery
                    WHERE lane_id > gap.low AND lane_id < gap.high AND (claim_no IS NULL OR claimed_until <= now())
                    ORDER BY lane_id, next_attempt_at LIMIT 1
                ) AS d
                UNION ALL
                SELECT d.lane_id, d.next_attempt_at, unknown.high, unknown.nth + 1
                FROM unknown CROSS JOIN LATERAL (
                    SELECT lane_id, next_attempt_at FROM webhook_delivery
                    WHERE lane_id > unknown.lane_id AND lane_id < unknown.high
                      AND (claim_no IS NULL OR claimed_until <= now())
                    ORDER BY lane_id, next_attempt_at LIMIT 1
                ) AS d
                WHERE unknown.nth < $7
            ), head AS (
                SELECT lane_id, min(next_attempt_at) AS next_attempt_at
                FROM (SELECT lane_id, next_attempt_at FROM unknown
                      UNION ALL
                      SELECT lane_id, next_attempt_at FROM made WHERE claim_no IS NULL
                      UNION ALL
                      SELECT known.lane_id, d.next_attempt_at
                      FROM known CROSS JOIN LATERAL (
                          SELECT next_attempt_at FROM webhook_delivery
                          WHERE lane_id = known.lane_id AND next_attempt_at >= known.since
                            AND (claim_no IS NULL OR claimed_until <= now())
                          ORDER BY next_attempt_at LIMIT 1
                      ) AS d) AS seen
                GROUP BY lane_id
            )
            SELECT now() AS "now!", head.lane_id AS "lane?: LaneId", head.next_attempt_at AS "first_at?",
                   l.client_id AS "client?: ClientId", l.origin AS "origin?", l.healthy AS "healthy?",
                   w.disabled_at IS NOT NULL AS "is_disabled!",
                   greatest(l.not_before, l.next_slot_at + rate_spacing(w.rate_limit)) AS "opens_at?",
                   (SELECT id FROM made ORDER BY id DESC LIMIT 1) AS "newest?: DeliveryId",
                   (SELECT count(*) FROM made) >= $4 AS "has_more_new!",
                   EXISTS (SELECT FROM unknown WHERE nth >= $7) AS "is_cut!"
            FROM (VALUES (1)) AS once
            LEFT JOIN head ON true
            LEFT JOIN LATERAL (
                SELECT client_id, origin, healthy, not_before, next_slot_at FROM webhook_lane
                WHERE id = head.lane_id LIMIT 1
            ) AS l ON true
            LEFT JOIN LATERAL (
                SELECT disabled_at, rate_limit FROM webhook_endpoint WHERE id = head.lane_id LIMIT 1
            ) AS w ON true"#,
            &lanes,
            &since,
            search.made_since.uuid(),
            NEW_AT_MOST,
            search.after.uuid(),
            search.before.uuid(),
            FOUND_AT_MOST,
        )
        .fetch_all(&mut conn)
        .await?;
        conn.done().await?;
        let first = rows.first();
        let now = first.map_or_else(|| self.clock().now(), |row| row.now);
        self.clock().learn(asked, now);
        let newest = first.and_then(|row| row.newest);
        let has_more_new = first.is_some_and(|row| row.has_more_new);
        let made_since = next_made_since(search.made_since, newest, has_more_new, now);
        let is_cut = first.is_some_and(|row| row.is_cut);
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
        Ok(Lanes { now, heads: heads.collect(), made_since, has_more_new, is_cut })
    }
}

/// Where a look goes on after one that began at `last` and saw `newest` as the last new delivery. A look that saw none goes on
/// where it began: what was passed before is still there, if its receiver hangs.
///
/// One relay works at a time, and stamps its deliveries with the time at which its turn begins ([`TURN`]). So what becomes
/// visible after a look is newer than what that look saw. A step of Postgres' clock breaks this for as long as the step is;
/// whoever makes a delivery beside the relay breaks it too. Then the lane is found by a search of all lanes.
fn next_made_since(
    last: DeliveryId,
    newest: Option<DeliveryId>,
    has_more: bool,
    now: DateTime<Utc>,
) -> DeliveryId {
    let lowest_of = |ms: u64| DeliveryId::from_ulid(Ulid::from_parts(ms, 0));
    let at = |moment: DateTime<Utc>| lowest_of(moment.timestamp_millis().try_into().unwrap_or_default());
    let next = match newest {
        Some(newest) if has_more => newest,
        Some(newest) => DeliveryId::from_ulid(Ulid(newest.uuid().as_u128() | !TURN)),
        // Nothing was asked for. A turn of the relay may be under way.
        None if last == DeliveryId::MAX => lowest_of(0),
        None => last,
    };
    next.clamp(at(now - LONGEST_TURN), at(now))
}
