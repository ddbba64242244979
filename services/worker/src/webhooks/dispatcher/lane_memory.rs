//! What this dispatcher remembers of the lanes, so that a look at them skips the index entries of deliveries long gone. Postgres
//! keeps those entries while somebody holds an old snapshot (a backup, say), and every look would walk over all of them.
//!
//! This is for speed only. A delivery that a look misses because of it is found by the next look without it, soon after.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use foreman_store::{KnownLane, LaneId, Lanes};

use crate::look_at_all::LookAtAll;

/// How far the memory stays behind the present. Whatever transaction made a delivery this long ago has committed.
const BEHIND: TimeDelta = TimeDelta::seconds(2);

/// Between two looks without the memory, unless they are slow.
const LOOK_AT_ALL: Duration = Duration::from_secs(1);

/// A lane without deliveries for this long is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(600);

#[derive(Debug)]
pub(super) struct LaneMemory {
    lanes: BTreeMap<LaneId, Remembered>,
    look_at_all: LookAtAll,
}

#[derive(Debug)]
struct Remembered {
    since: DateTime<Utc>,
    busy: Instant,
}

impl LaneMemory {
    pub(super) fn new() -> Self {
        Self { lanes: BTreeMap::new(), look_at_all: LookAtAll::new(Instant::now(), LOOK_AT_ALL) }
    }

    /// The known lanes for a look at `now`.
    pub(super) fn known(&self, now: Instant) -> Vec<KnownLane> {
        let look_at_all = self.look_at_all.is_due(now);
        let since = |remembered: &Remembered| {
            if look_at_all { DateTime::UNIX_EPOCH } else { remembered.since }
        };
        self.lanes
            .iter()
            .map(|(lane, remembered)| KnownLane { lane: *lane, since: since(remembered) })
            .collect()
    }

    /// Learns from a look that began at `began` and ended now.
    pub(super) fn learn(&mut self, lanes: &Lanes, began: Instant, ended: Instant) {
        self.look_at_all.looked(began, ended);
        let behind = lanes.now - BEHIND;
        self.lanes.retain(|_, remembered| {
            remembered.since = behind;
            ended < remembered.busy + FORGET_AFTER
        });
        for head in &lanes.heads {
            self.lanes.insert(head.lane, Remembered { since: head.first_at.min(behind), busy: ended });
        }
    }

    /// The moment from which on to claim in a lane.
    pub(super) fn since(&self, lane: LaneId) -> DateTime<Utc> {
        self.lanes.get(&lane).map_or(DateTime::UNIX_EPOCH, |remembered| remembered.since)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use foreman_store::{ClientId, LaneHead, LaneHealth};

    use super::*;

    fn look(now: DateTime<Utc>, heads: &[(LaneId, DateTime<Utc>)]) -> Lanes {
        let head = |(lane, first_at): &(LaneId, DateTime<Utc>)| LaneHead {
            lane: *lane,
            client: None,
            origin: None,
            health: LaneHealth::NeverTried,
            is_disabled: false,
            opens_at: None,
            first_at: *first_at,
        };
        Lanes { now, heads: heads.iter().map(head).collect() }
    }

    #[test]
    fn the_memory_stays_behind_the_present_and_before_what_still_lives() {
        let (busy, idle) = (lane("busy"), lane("idle"));
        let (now, postgres) = (Instant::now(), Utc::now());
        let mut memory = LaneMemory::new();
        memory.learn(
            &look(postgres, &[(busy, postgres - TimeDelta::minutes(5)), (idle, postgres)]),
            now,
            now,
        );
        assert_eq!(memory.since(busy), postgres - TimeDelta::minutes(5));
        assert_eq!(memory.since(idle), postgres - BEHIND);

        let later = postgres + TimeDelta::minutes(1);
        memory.learn(&look(later, &[]), now, now);
        assert_eq!(memory.since(busy), later - BEHIND);
        assert_eq!(memory.since(lane("never seen")), DateTime::UNIX_EPOCH);
    }

    #[test]
    fn now_and_then_everything_is_looked_at_and_more_seldom_where_that_is_slow() {
        let busy = lane("busy");
        let mut memory = LaneMemory::new();
        let (began, postgres) = (Instant::now(), Utc::now());
        let slow = began + Duration::from_secs(1);
        memory.learn(&look(postgres, &[(busy, postgres)]), began, slow);
        let since = |memory: &LaneMemory, at| memory.known(at)[0].since;
        assert_eq!(since(&memory, slow), postgres - BEHIND);
        assert_eq!(since(&memory, slow + Duration::from_secs(19)), postgres - BEHIND);
        assert_eq!(since(&memory, slow + Duration::from_secs(20)), DateTime::UNIX_EPOCH);
    }

    #[test]
    fn a_lane_without_deliveries_is_forgotten_in_time() {
        let (now, postgres) = (Instant::now(), Utc::now());
        let mut memory = LaneMemory::new();
        memory.learn(&look(postgres, &[(lane("once"), postgres)]), now, now);
        let later = now + FORGET_AFTER;
        memory.learn(&look(postgres, &[]), later, later);
        assert!(memory.known(later).is_empty());
    }

    /// Of one client throughout.
    fn lane(name: &str) -> LaneId {
        static CLIENT: LazyLock<ClientId> = LazyLock::new(ClientId::generate);
        LaneId::derive(*CLIENT, name)
    }
}
