//! Which of the lanes with something due a look visits, or a claim takes from. Everybody waits for both, so they are kept
//! short: receivers that hang, fail or drip must not delay the others by their number. Pure.

use std::collections::HashMap;

use foreman_store::{ClientId, LaneHealth, LaneId};

use super::Remembered;
use crate::webhooks::dispatcher::pool::{CountedLane, Pool};

/// Proven lanes of one client.
pub(super) const PROVEN: usize = 128;

/// Lanes that are not proven, of all clients together. A look and a claim of eight cost hardly more than those of one, and
/// a few thousand such lanes still have their turn in each second.
pub(super) const UNPROVEN: usize = 8;

pub(super) struct Visits<'a> {
    seats: &'a Pool,
    /// A lane whose row is gone has no client.
    clients: HashMap<Option<ClientId>, OfClient<'a>>,
    left_some_out: bool,
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

impl<'a> Visits<'a> {
    pub(super) fn new(seats: &'a Pool) -> Self {
        Self { seats, clients: HashMap::new(), left_some_out: false }
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
            if !client.is_full {
                client.unproven.push((remembered.empty_in, lane));
            }
        } else if self.seats.room_at(lane) > 0 {
            if client.proven.len() < PROVEN {
                client.proven.push(lane.lane);
            } else {
                self.left_some_out = true;
            }
        }
    }

    /// The lanes to visit, and whether others with room are left out. Of the unproven ones the clients have one each in turn,
    /// and those that were empty last come last.
    pub(super) fn chosen(mut self) -> (Vec<LaneId>, bool) {
        let mut chosen = Vec::new();
        for client in self.clients.values_mut() {
            client.unproven.sort_by_key(|(empty_in, _)| *empty_in);
            chosen.append(&mut client.proven);
        }
        let lines: Vec<_> = self.clients.values().map(|client| &client.unproven).collect();
        let longest = lines.iter().map(|line| line.len()).max().unwrap_or_default();
        let in_turn = (0..longest).flat_map(|nth| lines.iter().filter_map(move |line| line.get(nth)));
        // There may be thousands, so no more of them are asked for their room than necessary.
        let mut unproven = in_turn.map(|(_, lane)| lane).filter(|lane| self.seats.room_at(lane) > 0);
        chosen.extend(unproven.by_ref().take(UNPROVEN).map(|lane| lane.lane));
        (chosen, self.left_some_out || unproven.next().is_some())
    }
}
