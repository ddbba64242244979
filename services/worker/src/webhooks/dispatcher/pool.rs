//! A bounded amount of something (attempts, bytes), and how much of it each lane, client and destination uses now. Each of
//! them gets a bounded part, so that a receiver that hangs, a client that sends much and a receiver that many clients name
//! cannot stop the others.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foreman_store::{ClientId, LaneHealth, LaneId};
use tokio::sync::Notify;

use super::destination::Destination;

/// What a delivery is counted under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CountedLane {
    pub(super) lane: LaneId,
    /// `None` where the lane's row is gone. Then only the lane itself is counted.
    pub(super) client: Option<ClientId>,
    pub(super) destination: Option<Destination>,
    pub(super) health: LaneHealth,
}

/// How much may be used at the same time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) all: u64,
    /// By all lanes together that are not proven. However many of them hang, the rest goes on.
    pub(super) unproven: u64,
    pub(super) per_lane: u64,
    pub(super) per_unproven_lane: u64,
    /// Per client, however many receivers it names.
    pub(super) per_client: u64,
    /// Per address and port, under however many names and by however many clients it is called.
    pub(super) per_destination: u64,
}

/// What one limit counts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Counted {
    All,
    Unproven,
    Lane(LaneId),
    Client(ClientId),
    Destination(Destination),
}

/// What each of these uses. An entry at zero goes, so that the map is no larger than what is in use.
#[derive(Debug, Clone, Default)]
struct Tally(HashMap<Counted, u64>);

/// Shared by those who take parts of it and those who give them back.
#[derive(Debug, Clone)]
pub(super) struct Pool {
    limits: Limits,
    used: Arc<Mutex<Tally>>,
    /// Is notified when a part is given back.
    freed: Arc<Notify>,
}

/// A part of a pool. It is given back on drop.
#[derive(Debug)]
pub(super) struct Part {
    pool: Pool,
    lane: CountedLane,
    amount: u64,
}

impl Limits {
    pub(super) const NONE: Self = Self {
        all: u64::MAX,
        unproven: u64::MAX,
        per_lane: u64::MAX,
        per_unproven_lane: u64::MAX,
        per_client: u64::MAX,
        per_destination: u64::MAX,
    };

    /// The limits that hold for a lane.
    fn of(&self, lane: &CountedLane) -> impl Iterator<Item = (Counted, u64)> {
        let is_proven = lane.health == LaneHealth::Proven;
        let per_lane = if is_proven { self.per_lane } else { self.per_unproven_lane };
        let destination = lane.destination.clone().map(Counted::Destination);
        [(Counted::All, self.all), (Counted::Lane(lane.lane), per_lane)]
            .into_iter()
            .chain((!is_proven).then_some((Counted::Unproven, self.unproven)))
            .chain(lane.client.map(|client| (Counted::Client(client), self.per_client)))
            .chain(destination.map(|destination| (destination, self.per_destination)))
    }
}

impl Tally {
    /// How much more the lane may have.
    fn room(&self, limits: &Limits, lane: &CountedLane) -> u64 {
        let rooms = limits.of(lane).map(|(counted, limit)| limit.saturating_sub(self.used(&counted)));
        rooms.min().unwrap_or_default()
    }

    fn add(&mut self, limits: &Limits, lane: &CountedLane, amount: u64) {
        for (counted, _) in limits.of(lane) {
            *self.0.entry(counted).or_default() += amount;
        }
    }

    fn subtract(&mut self, limits: &Limits, lane: &CountedLane, amount: u64) {
        for (counted, _) in limits.of(lane) {
            if let Entry::Occupied(mut used) = self.0.entry(counted) {
                *used.get_mut() -= amount;
                if *used.get() == 0 {
                    used.remove();
                }
            }
        }
    }

    fn used(&self, counted: &Counted) -> u64 {
        self.0.get(counted).copied().unwrap_or_default()
    }
}

impl Pool {
    pub(super) fn new(limits: Limits, freed: Arc<Notify>) -> Self {
        Self { limits, used: Arc::default(), freed }
    }

    /// How much more may be used in all.
    pub(super) fn room(&self) -> u64 {
        self.limits.all.saturating_sub(self.tally().used(&Counted::All))
    }

    /// How much more this lane may use.
    pub(super) fn room_at(&self, lane: &CountedLane) -> u64 {
        self.tally().room(&self.limits, lane)
    }

    /// How much each of these lanes may use now. They get one each in turn, from `first` on, until there is no room left
    /// for any of them.
    pub(super) fn offer(&self, lanes: &[CountedLane], first: usize) -> Vec<u64> {
        let mut trial = self.tally().clone();
        let mut offered = vec![0; lanes.len()];
        let mut hungry: Vec<usize> = (first..lanes.len()).chain(0..first.min(lanes.len())).collect();
        while !hungry.is_empty() {
            hungry.retain(|&index| {
                let has_room = trial.room(&self.limits, &lanes[index]) > 0;
                if has_room {
                    trial.add(&self.limits, &lanes[index], 1);
                    offered[index] += 1;
                }
                has_room
            });
        }
        offered
    }

    /// Takes a part, also where it is larger than the room left.
    pub(super) fn take(&self, lane: CountedLane, amount: u64) -> Part {
        self.tally().add(&self.limits, &lane, amount);
        Part { pool: self.clone(), lane, amount }
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.pool.tally().subtract(&self.pool.limits, &self.lane, self.amount);
        self.pool.freed.notify_one();
    }
}

#[cfg(test)]
impl Pool {
    pub(super) fn is_unused(&self) -> bool {
        self.tally().0.is_empty()
    }
}
