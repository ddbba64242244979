//! How many bytes of heavy webhooks may be under way: in memory from the claim to the end of the attempt, and on the line
//! from Postgres until they are read. So the process stays small, and a thin line is never filled with bytes that cannot be
//! sent in time.
//!
//! There need only be some room for the next body, whatever its size. So a body of any size fits. The bytes under way exceed a
//! bound by one body at most, and by a quarter and another body where both loops claim at the same moment.

use std::sync::Arc;

use super::freed::Freed;
use super::pace::Pace;
use super::pool::{CountedLane, Limits, Part, Pool};

/// Bytes of artifacts in memory. While a body is made it takes up to four times as much: as read, once raw and once more as
/// a string. So this is 64 MiB of memory.
const IN_MEMORY: u64 = 16 << 20;

const LIMITS: Limits = Limits {
    all: IN_MEMORY,
    unproven: IN_MEMORY / 4,
    per_lane: IN_MEMORY / 4,
    per_unproven_lane: IN_MEMORY / 4,
    per_client: IN_MEMORY / 2,
    ..Limits::NONE
};

/// Bytes claimed and not read yet: two seconds' worth on a line of 1 MiB/s.
const UNREAD: u64 = 2 << 20;

#[derive(Debug, Clone)]
pub(super) struct Heavy {
    in_memory: Pool,
    unread: Pool,
}

/// The bytes of one heavy webhook. They are given back on drop.
#[derive(Debug)]
pub(super) struct Weight {
    _in_memory: Part,
    unread: Option<Part>,
}

impl Heavy {
    pub(super) fn new(freed: Arc<Freed>) -> Self {
        let unread = Limits { all: UNREAD, ..Limits::NONE };
        Self { in_memory: Pool::new(LIMITS, Arc::clone(&freed)), unread: Pool::new(unread, freed) }
    }

    /// The bytes that a claim of this pace may bring in all.
    pub(super) fn room(&self, pace: Pace) -> u64 {
        let room = self.in_memory.room().min(self.unread.room());
        match pace {
            Pace::Prompt => room,
            Pace::Patient => room.div_ceil(4),
        }
    }

    /// How many of these bytes may be of this lane.
    pub(super) fn room_at(&self, lane: &CountedLane) -> u64 {
        self.in_memory.room_at(lane)
    }

    /// Enters the bytes of a claimed delivery.
    pub(super) fn take(&self, lane: CountedLane, bytes: u64) -> Weight {
        let unread = Some(self.unread.take(lane.clone(), bytes));
        Weight { _in_memory: self.in_memory.take(lane, bytes), unread }
    }
}

impl Weight {
    /// Its bytes are in memory: the line is free for others.
    pub(super) fn is_read(&mut self) {
        self.unread = None;
    }
}

#[cfg(test)]
mod tests {
    use foreman_store::{ClientId, LaneHealth, LaneId};

    use super::*;

    fn heavy() -> Heavy {
        Heavy::new(Arc::default())
    }

    fn lane(health: LaneHealth) -> CountedLane {
        let client = ClientId::generate();
        CountedLane { lane: LaneId::derive(client, "r"), client: Some(client), destination: None, health }
    }

    /// Takes bodies of this size for as long as there is room at all, each read at once.
    fn fill(heavy: &Heavy, lane: &CountedLane, bytes: u64) -> Vec<Weight> {
        let mut weights = Vec::new();
        while heavy.room(Pace::Prompt).min(heavy.room_at(lane)) > 0 {
            let mut weight = heavy.take(lane.clone(), bytes);
            weight.is_read();
            weights.push(weight);
        }
        weights
    }

    #[test]
    fn the_largest_body_there_may_be_fits_and_then_nothing_does() {
        let heavy = heavy();
        let (one, other) = (lane(LaneHealth::Proven), lane(LaneHealth::Proven));
        let largest = fill(&heavy, &one, 16 << 20);
        assert_eq!((largest.len(), heavy.room(Pace::Prompt)), (1, 0));
        assert!(fill(&heavy, &other, 1).is_empty());
        drop(largest);
        assert_eq!(fill(&heavy, &other, 16 << 20).len(), 1);
    }

    #[test]
    fn a_lane_a_client_and_all_that_are_unproven_have_their_parts() {
        let heavy = heavy();
        const BYTES: u64 = 256 << 10;
        let (hanging, healthy) = (lane(LaneHealth::Failing), lane(LaneHealth::Proven));
        let unproven = fill(&heavy, &hanging, BYTES);
        assert_eq!(unproven.len() as u64 * BYTES, LIMITS.unproven / 2);
        let _more: Vec<_> = (0..8).map(|_| fill(&heavy, &lane(LaneHealth::Failing), BYTES)).collect();
        assert_eq!(heavy.room_at(&lane(LaneHealth::NeverTried)), 0, "nor is there room for another of them");
        let of_lane = fill(&heavy, &healthy, BYTES);
        assert_eq!(of_lane.len() as u64 * BYTES, LIMITS.per_lane);
        let same_client = CountedLane { lane: lane(LaneHealth::Proven).lane, ..healthy };
        let of_client = fill(&heavy, &same_client, BYTES);
        assert_eq!((of_lane.len() + of_client.len()) as u64 * BYTES, LIMITS.per_client);
        assert!(heavy.room_at(&lane(LaneHealth::Proven)) > 0, "others have room");
    }

    #[test]
    fn what_is_not_read_yet_holds_the_next_claim_back_and_nothing_longer() {
        let heavy = heavy();
        let mut unread = heavy.take(lane(LaneHealth::Proven), UNREAD);
        assert_eq!(heavy.room(Pace::Prompt), 0);
        unread.is_read();
        assert_eq!(heavy.room(Pace::Prompt), UNREAD);
    }

    #[test]
    fn what_has_ended_leaves_no_trace() {
        let heavy = heavy();
        drop(fill(&heavy, &lane(LaneHealth::Proven), 1 << 20));
        drop(heavy.take(lane(LaneHealth::Failing), 1));
        assert!(heavy.in_memory.is_unused() && heavy.unread.is_unused());
    }
}
