//! Which of the lanes with something due a look visits, or a claim takes from. Everybody of a pace waits for both, so they are
//! kept short. Pure.

use std::collections::HashMap;

use foreman_store::{ClientId, LaneHealth, LaneId};

use super::Remembered;
use crate::webhooks::dispatcher::pace::Pace;
use crate::webhooks::dispatcher::pool::{CountedLane, Pool};

/// Proven lanes of one client.
pub(super) const PROVEN: usize = 128;

/// Lanes that are not proven, of all clients together, in a claim of the prompt pace. A claim of eight costs hardly more than
/// one of one.
pub(super) const UNPROVEN: usize = 8;

/// The same for the patient pace, where nobody waits who is not as slow.
pub(super) const PATIENT: usize = 64;

pub(super) struct Visits<'a> {
    seats: &'a Pool,
    /// Lanes that are not proven.
    unproven_at_most: usize,
    /// A lane whose row is gone has no client.
    clients: HashMap<Option<ClientId>, OfClient<'a>>,
    left_some_out: bool,
    is_short: bool,
}

#[derive(Default)]
struct OfClient<'a> {
    /// With room.
    proven: Vec<LaneId>,
    /// With room or not. Each with the last pass in which it was empty.
    unproven: Vec<(u64, &'a CountedLane)>,
    /// There is no room for any of its unproven lanes, so nobody asks for each of them.
    is_full: bool,
}

/// The lanes to visit.
pub(super) struct Chosen {
    pub(super) lanes: Vec<LaneId>,
    /// Others with room are left out.
    pub(super) left_some_out: bool,
    /// There was no room for others.
    pub(super) is_short: bool,
}

impl<'a> Visits<'a> {
    pub(super) fn new(pace: Pace, seats: &'a Pool) -> Self {
        let unproven_at_most = match pace {
            Pace::Prompt => UNPROVEN,
            Pace::Patient => PATIENT,
        };
        Self { seats, unproven_at_most, clients: HashMap::new(), left_some_out: false, is_short: false }
    }

    /// Proposes a lane with something due.
    pub(super) fn add(&mut self, remembered: &'a Remembered) {
        let lane = &remembered.lane;
        let is_full = || lane.client.is_some_and(|client| self.seats.unproven_room_of(client) == 0);
        let client = self
            .clients
            .entry(lane.client)
            .or_insert_with(|| OfClient { is_full: is_full(), ..OfClient::default() });
        if lane.health != LaneHealth::Proven {
            if client.is_full {
                self.is_short = true;
            } else {
                client.unproven.push((remembered.empty_in, lane));
            }
        } else if self.seats.room_at(lane) == 0 {
            self.is_short = true;
        } else if client.proven.len() < PROVEN {
            client.proven.push(lane.lane);
        } else {
            self.left_some_out = true;
        }
    }

    /// Of the unproven lanes the clients have one each in turn. Those that were empty last come last, and among equals those that
    /// fail.
    pub(super) fn chosen(mut self) -> Chosen {
        let mut lanes = Vec::new();
        for client in self.clients.values_mut() {
            client.unproven.sort_by_key(|(empty_in, lane)| (*empty_in, lane.health == LaneHealth::Failing));
            lanes.append(&mut client.proven);
        }
        let lines: Vec<_> = self.clients.values().map(|client| &client.unproven).collect();
        let longest = lines.iter().map(|line| line.len()).max().unwrap_or_default();
        let in_turn = (0..longest).flat_map(|nth| lines.iter().filter_map(move |line| line.get(nth)));
        let at_most = lanes.len() + self.unproven_at_most;
        // There may be thousands, so no more of them are asked for their room than necessary.
        for (_, lane) in in_turn {
            if self.seats.room_at(lane) == 0 {
                self.is_short = true;
            } else if lanes.len() < at_most {
                lanes.push(lane.lane);
            } else {
                self.left_some_out = true;
                break;
            }
        }
        Chosen { lanes, left_some_out: self.left_some_out, is_short: self.is_short }
    }
}
