//! How many bytes of heavy webhooks may be under way: in memory, from the claim to the end of the attempt, and on the line
//! from Postgres until they are read. A receiver that hangs and a client that sends much have bounded parts of both, so
//! that the process stays small and a thin line is never filled with what cannot be sent in time.
//!
//! Each bound holds before the next one is claimed: a body of any size fits where there is room at all, and one body more
//! than the bound is the most there ever is.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foreman_store::{ClientId, LaneId};

use super::seats::CountedLane;
use crate::alarm::Alarm;

/// Bytes of artifacts. A body in the making takes up to four times as much: as read, once raw and once more as a string.
/// So this is 64 MiB of memory.
const ALL: u64 = 16 << 20;

/// Of these for lanes that have not proved themselves, as with seats.
const UNPROVEN: u64 = ALL / 4;

/// For one lane.
const LANE: u64 = ALL / 4;

/// For one client, whatever number of receivers it names.
const CLIENT: u64 = ALL / 2;

/// Claimed and not read yet: two seconds' worth on a line of 1 MiB/s.
const UNREAD: u64 = 2 << 20;

/// What is under way, shared by those who add to it and those who end.
#[derive(Debug, Clone)]
pub(super) struct Heavy {
    under_way: Arc<Mutex<UnderWay>>,
    /// Rings when there is room again.
    alarm: Arc<Alarm>,
}

/// The bytes of one heavy webhook, given back on drop.
#[derive(Debug)]
pub(super) struct Weight {
    heavy: Heavy,
    lane: CountedLane,
    bytes: u64,
    is_read: bool,
}

#[derive(Debug, Default)]
struct UnderWay {
    all: u64,
    unread: u64,
    unproven: u64,
    lanes: HashMap<LaneId, u64>,
    clients: HashMap<ClientId, u64>,
}

impl Heavy {
    pub(super) fn new(alarm: Arc<Alarm>) -> Self {
        Self { under_way: Arc::default(), alarm }
    }

    /// The bytes that a claim may bring in all.
    pub(super) fn room(&self) -> u64 {
        let under_way = self.under_way();
        ALL.saturating_sub(under_way.all).min(UNREAD.saturating_sub(under_way.unread))
    }

    /// The bytes of these that it may bring to this lane.
    pub(super) fn room_at(&self, lane: &CountedLane) -> u64 {
        let under_way = self.under_way();
        let of_lane = LANE.saturating_sub(bytes_of(&under_way.lanes, &lane.lane));
        let of_client =
            lane.client.map_or(ALL, |client| CLIENT.saturating_sub(bytes_of(&under_way.clients, &client)));
        let unproven = if lane.proven { ALL } else { UNPROVEN.saturating_sub(under_way.unproven) };
        of_lane.min(of_client).min(unproven)
    }

    /// Enters what a claim brought.
    pub(super) fn take(&self, lane: CountedLane, bytes: u64) -> Weight {
        let mut under_way = self.under_way();
        under_way.all += bytes;
        under_way.unread += bytes;
        if !lane.proven {
            under_way.unproven += bytes;
        }
        *under_way.lanes.entry(lane.lane).or_default() += bytes;
        if let Some(client) = lane.client {
            *under_way.clients.entry(client).or_default() += bytes;
        }
        drop(under_way);
        Weight { heavy: self.clone(), lane, bytes, is_read: false }
    }

    fn under_way(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Weight {
    /// Its bytes are in memory: the line is free for others.
    pub(super) fn is_read(&mut self) {
        if !std::mem::replace(&mut self.is_read, true) {
            self.heavy.under_way().unread -= self.bytes;
            self.heavy.alarm.wake.notify_one();
        }
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.is_read();
        let mut under_way = self.heavy.under_way();
        under_way.all -= self.bytes;
        if !self.lane.proven {
            under_way.unproven -= self.bytes;
        }
        decrease(&mut under_way.lanes, &self.lane.lane, self.bytes);
        if let Some(client) = self.lane.client {
            decrease(&mut under_way.clients, &client, self.bytes);
        }
        drop(under_way);
        self.heavy.alarm.wake.notify_one();
    }
}

fn bytes_of<K: Hash + Eq>(all: &HashMap<K, u64>, key: &K) -> u64 {
    all.get(key).copied().unwrap_or_default()
}

/// Entries at zero go, so that the maps are no larger than what is under way.
fn decrease<K: Hash + Eq>(all: &mut HashMap<K, u64>, key: &K, bytes: u64) {
    if let Some(of_key) = all.get_mut(key) {
        *of_key -= bytes;
        if *of_key == 0 {
            all.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heavy() -> Heavy {
        Heavy::new(Arc::new(Alarm::new()))
    }

    fn lane(proven: bool) -> CountedLane {
        let client = ClientId::generate();
        CountedLane { lane: LaneId::derive(client, "r"), client: Some(client), destination: None, proven }
    }

    /// Takes bodies of this size for as long as there is room at all, each read at once.
    fn fill(heavy: &Heavy, lane: &CountedLane, bytes: u64) -> Vec<Weight> {
        let mut weights = Vec::new();
        while heavy.room().min(heavy.room_at(lane)) > 0 {
            let mut weight = heavy.take(lane.clone(), bytes);
            weight.is_read();
            weights.push(weight);
        }
        weights
    }

    #[test]
    fn the_largest_body_there_may_be_fits_and_then_nothing_does() {
        let heavy = heavy();
        let (one, other) = (lane(true), lane(true));
        let largest = fill(&heavy, &one, 16 << 20);
        assert_eq!((largest.len(), heavy.room()), (1, 0));
        assert!(fill(&heavy, &other, 1).is_empty());
        drop(largest);
        assert_eq!(fill(&heavy, &other, 16 << 20).len(), 1);
    }

    #[test]
    fn a_lane_a_client_and_all_that_are_unproven_have_their_parts() {
        let heavy = heavy();
        const BYTES: u64 = 256 << 10;
        let (hanging, healthy) = (lane(false), lane(true));
        let unproven = fill(&heavy, &hanging, BYTES);
        assert_eq!(unproven.len() as u64 * BYTES, UNPROVEN);
        assert_eq!(heavy.room_at(&lane(false)), 0, "nor is there room for another of them");
        let of_lane = fill(&heavy, &healthy, BYTES);
        assert_eq!(of_lane.len() as u64 * BYTES, LANE);
        let same_client = CountedLane { lane: lane(true).lane, ..healthy };
        let of_client = fill(&heavy, &same_client, BYTES);
        assert_eq!((of_lane.len() + of_client.len()) as u64 * BYTES, CLIENT);
        assert!(heavy.room_at(&lane(true)) > 0, "others have room");
    }

    #[test]
    fn what_is_not_read_yet_holds_the_next_claim_back_and_nothing_longer() {
        let heavy = heavy();
        let mut unread = heavy.take(lane(true), UNREAD);
        assert_eq!(heavy.room(), 0);
        unread.is_read();
        assert_eq!(heavy.room(), UNREAD);
    }

    #[test]
    fn what_has_ended_leaves_no_trace() {
        let heavy = heavy();
        drop(fill(&heavy, &lane(true), 1 << 20));
        drop(heavy.take(lane(false), 1));
        let under_way = heavy.under_way();
        assert_eq!((under_way.all, under_way.unread, under_way.unproven), (0, 0, 0));
        assert!(under_way.lanes.is_empty() && under_way.clients.is_empty());
    }
}
