//! Which lanes the next claim may take from, and how much of each. It follows from what is due and what is under way alone:
//! nobody is asked here.

use std::collections::HashMap;

use foreman_store::{Delivery, LaneHead, LaneId, LaneOffer};

use super::destination::Destinations;
use super::heavy::Heavy;
use super::lane_memory::LaneMemory;
use super::pace::Pace;
use super::pool::{CountedLane, Part, Pool};

#[derive(Debug)]
pub(super) struct Choice {
    /// What to claim: each offer is for at least one delivery.
    pub(super) offers: Vec<LaneOffer>,
    /// What is claimed of a lane is counted so. Every lane with an offer is here.
    pub(super) lanes: HashMap<LaneId, CountedLane>,
    /// The one seat of each lane with an offer that is not proven. It is taken before the claim, or the other loop could claim for
    /// it as well.
    pub(super) reserved: HashMap<LaneId, Part>,
}

impl Choice {
    /// Shares the free seats among the lanes that have something due, beginning with the one at `first`. A lane without
    /// room for heavy webhooks is offered its seats all the same: the others of its webhooks need no room.
    pub(super) fn new(
        due: &[LaneHead],
        first: usize,
        seats: &Pool,
        heavy: &Heavy,
        memory: &LaneMemory,
        destinations: &Destinations,
    ) -> Self {
        let lanes: Vec<CountedLane> = due
            .iter()
            .map(|head| CountedLane {
                lane: head.lane,
                client: head.client,
                destination: head.origin.as_ref().and_then(|origin| destinations.of(origin)),
                health: head.health,
            })
            .collect();
        let mut offers = Vec::new();
        let mut reserved = HashMap::new();
        for (lane, at_most) in
            lanes.iter().zip(seats.offer(&lanes, first)).filter(|(_, at_most)| *at_most > 0)
        {
            if Pace::of(lane.health) == Pace::Patient {
                let Some(seat) = seats.reserve(lane) else { continue };
                reserved.insert(lane.lane, seat);
            }
            offers.push(LaneOffer {
                lane: lane.lane,
                since: memory.since(lane.lane),
                at_most: i32::try_from(at_most).unwrap_or(i32::MAX),
                heavy_bytes: i64::try_from(heavy.room_at(lane)).unwrap_or(i64::MAX),
            });
        }
        Self { offers, lanes: lanes.into_iter().map(|lane| (lane.lane, lane)).collect(), reserved }
    }

    /// Nothing is to be claimed any more: it was already, from these lanes.
    pub(super) fn of(lanes: HashMap<LaneId, CountedLane>) -> Self {
        Self { offers: Vec::new(), lanes, reserved: HashMap::new() }
    }

    /// Takes a seat for a delivery of this lane.
    pub(super) fn seat(&mut self, lane: LaneId, seats: &Pool) -> Part {
        let counted = self.lanes.get(&lane).expect("a claim takes from these lanes alone");
        self.reserved.remove(&lane).unwrap_or_else(|| seats.take(counted.clone(), 1))
    }

    /// Gives back the seats that the claim brought nothing for. Returns whether there are such.
    pub(super) fn end(self) -> bool {
        let were_reserved_in_vain = !self.reserved.is_empty();
        self.reserved.into_values().for_each(Part::was_not_used);
        were_reserved_in_vain
    }

    /// The lanes that gave less than they were offered, and so have nothing more for now.
    pub(super) fn empty(&self, claimed: &[Delivery]) -> Vec<LaneId> {
        let mut claimed_of: HashMap<LaneId, i32> = HashMap::new();
        for delivery in claimed {
            *claimed_of.entry(delivery.receiver.lane).or_default() += 1;
        }
        let is_empty = |offer: &&LaneOffer| claimed_of.get(&offer.lane) != Some(&offer.at_most);
        self.offers.iter().filter(is_empty).map(|offer| offer.lane).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use chrono::{DateTime, TimeDelta, Utc};
    use foreman_store::{ClientId, DeliveryId, LaneHealth, LaneSearch, Lanes};

    use super::*;
    use crate::webhooks::dispatcher::heavy::Weight;
    use crate::webhooks::dispatcher::pool::Part;
    use crate::webhooks::dispatcher::seats::seats;

    /// A dispatcher's state without the dispatcher.
    struct Rig {
        seats: Pool,
        heavy: Heavy,
        memory: LaneMemory,
        destinations: Destinations,
    }

    impl Rig {
        fn new() -> Self {
            Self {
                seats: seats(Arc::default()),
                heavy: Heavy::new(Arc::default()),
                memory: LaneMemory::new(),
                destinations: Destinations::default(),
            }
        }

        fn choose_from(&self, due: &[LaneHead], first: usize) -> Choice {
            Choice::new(due, first, &self.seats, &self.heavy, &self.memory, &self.destinations)
        }

        fn choose(&self, due: &[LaneHead]) -> Choice {
            self.choose_from(due, 0)
        }

        /// What each lane is offered, in the order of `due`.
        fn offered(&self, due: &[LaneHead]) -> Vec<i32> {
            let choice = self.choose(due);
            let of = |head: &LaneHead| choice.offers.iter().find(|offer| offer.lane == head.lane);
            due.iter().map(|head| of(head).map_or(0, |offer| offer.at_most)).collect()
        }

        fn claim(&self, head: &LaneHead, seats: i32, heavy_bytes: u64) -> (Vec<Part>, Weight) {
            let lane = self.choose(std::slice::from_ref(head)).lanes.remove(&head.lane).unwrap();
            let seats = (0..seats).map(|_| self.seats.take(lane.clone(), 1)).collect();
            (seats, self.heavy.take(lane, heavy_bytes))
        }
    }

    /// A lane with something due, of a client of its own.
    fn due(origin: &str, health: LaneHealth) -> LaneHead {
        let client = ClientId::generate();
        LaneHead {
            lane: LaneId::derive(client, origin),
            client: Some(client),
            origin: Some(origin.to_owned()),
            health,
            is_disabled: false,
            opens_at: None,
            first_at: DateTime::UNIX_EPOCH,
        }
    }

    /// Lanes to `https://0.example`, `https://1.example` and so on.
    fn several<const COUNT: usize>(health: LaneHealth) -> [LaneHead; COUNT] {
        std::array::from_fn(|number| due(&format!("https://{number}.example"), health))
    }

    #[test]
    fn where_nothing_is_due_nothing_is_offered() {
        assert!(Rig::new().choose(&[]).offers.is_empty());
    }

    #[test]
    fn a_proven_lane_is_offered_more_than_one_that_was_never_tried_or_fails() {
        let due = [
            due("https://a.example", LaneHealth::Proven),
            due("https://b.example", LaneHealth::NeverTried),
            due("https://c.example", LaneHealth::Failing),
        ];
        assert_eq!(Rig::new().offered(&due), [32, 1, 1]);
    }

    #[test]
    fn seats_that_are_taken_are_offered_to_nobody() {
        let rig = Rig::new();
        let [busy, other] = several(LaneHealth::Proven);
        let sending = rig.claim(&busy, 30, 0);
        assert_eq!(rig.offered(&[busy.clone(), other.clone()]), [2, 32]);
        drop(sending);
        assert_eq!(rig.offered(&[busy, other]), [32, 32]);
    }

    #[test]
    fn receivers_at_one_address_are_offered_seats_as_one_once_their_names_led_there() {
        let rig = Rig::new();
        let due: [LaneHead; 4] = several(LaneHealth::Proven);
        assert_eq!(rig.offered(&due), [32; 4]);
        for number in 0..4 {
            rig.destinations.learn(&format!("{number}.example"), [192, 0, 2, 1].into());
        }
        // Each of the four clients leaves as many of the 128 as it takes.
        assert_eq!(rig.offered(&due), [26, 26, 26, 25]);
    }

    #[test]
    fn a_lane_whose_row_was_pruned_is_offered_what_a_new_one_is() {
        let pruned =
            LaneHead { client: None, origin: None, ..due("https://a.example", LaneHealth::NeverTried) };
        assert_eq!(Rig::new().offered(&[pruned]), [1]);
    }

    #[test]
    fn with_more_lanes_than_seats_the_first_ones_from_a_moving_start_get_one_each() {
        let rig = Rig::new();
        let due: [LaneHead; 4_200] = several(LaneHealth::Proven);
        let choice = rig.choose_from(&due, 4_000);
        assert_eq!((choice.offers.len(), choice.lanes.len()), (4_096, 4_200));
        assert!(choice.offers.iter().all(|offer| offer.at_most == 1));
        let is_offered = |index: usize| choice.offers.iter().any(|offer| offer.lane == due[index].lane);
        assert!(is_offered(4_000) && is_offered(4_199) && is_offered(0) && is_offered(3_895));
        assert!(!is_offered(3_896) && !is_offered(3_999));
    }

    #[test]
    fn a_lane_without_room_for_heavy_webhooks_is_still_offered_seats() {
        let rig = Rig::new();
        let [heavy, other] = several(LaneHealth::Proven);
        let _sending = rig.claim(&heavy, 1, 5 << 20);
        let offers = rig.choose(&[heavy, other]).offers;
        assert_eq!((offers[0].at_most, offers[0].heavy_bytes), (31, 0));
        assert_eq!((offers[1].at_most, offers[1].heavy_bytes), (32, 4 << 20));
    }

    #[test]
    fn a_claim_begins_where_the_memory_of_the_lane_does() {
        let mut rig = Rig::new();
        let [known, unknown] = several(LaneHealth::Proven);
        let (now, postgres) = (Instant::now(), Utc::now());
        let first_at = postgres - TimeDelta::minutes(5);
        let heads = vec![LaneHead { first_at, ..known.clone() }];
        let lanes =
            Lanes { now: postgres, heads, made_since: DeliveryId::MAX, has_more_new: false, is_cut: false };
        rig.memory.learn(Pace::Patient, &LaneSearch::everywhere(Vec::new()), &lanes, now, now);
        let search = rig.memory.search(Pace::Patient, now, postgres, &rig.seats);
        rig.memory.learn(Pace::Patient, &search, &lanes, now, now);
        let offers = rig.choose(&[known, unknown]).offers;
        assert_eq!((offers[0].since, offers[1].since), (first_at, DateTime::UNIX_EPOCH));
    }
}
