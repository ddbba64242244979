//! How many attempts may be under way at the same time. Each takes a seat.

use std::sync::Arc;

use super::freed::Freed;
use super::pool::{Limits, Pool};

/// All seats. An attempt that waits costs a socket and its body, up to some ten KiB: so this is bounded by memory (some ten MiB)
/// and by the files that a process may open.
const SEATS: u64 = 4_096;

const LIMITS: Limits = Limits {
    all: SEATS,
    unproven: SEATS / 4 * 3,
    // A receiver that answers in 10 ms gets 3,200 webhooks a second with it.
    per_lane: 32,
    // So that a client has room for a thousand receivers that hang. One success gives a new receiver all of the above.
    per_unproven_lane: 1,
    per_client: SEATS / 4,
    // A client alone has half of them.
    per_destination: 128,
};

pub(super) fn seats(freed: Arc<Freed>) -> Pool {
    Pool::new(LIMITS, freed)
}

#[cfg(test)]
mod tests {
    use foreman_store::{ClientId, LaneHealth, LaneId};

    use super::*;
    use crate::webhooks::dispatcher::destination::Destinations;
    use crate::webhooks::dispatcher::pool::{CountedLane, Part};

    fn new() -> Pool {
        seats(Arc::default())
    }

    /// A lane of its own client and destination, unless they are set afterwards.
    fn lane(number: usize, health: LaneHealth) -> CountedLane {
        let client = ClientId::generate();
        let origin = format!("https://receiver-{number}.example");
        let lane = LaneId::derive(client, &origin);
        CountedLane { lane, client: Some(client), destination: Destinations::default().of(&origin), health }
    }

    fn lanes(numbers: std::ops::Range<usize>, health: LaneHealth) -> Vec<CountedLane> {
        numbers.map(|number| lane(number, health)).collect()
    }

    fn take_all(pool: &Pool, lanes: &[CountedLane]) -> Vec<Part> {
        let offered = pool.offer(lanes, 0);
        let seats = lanes.iter().zip(offered);
        seats.flat_map(|(lane, offered)| (0..offered).map(|_| pool.take(lane.clone(), 1))).collect()
    }

    #[test]
    fn a_hanging_receiver_gets_no_more_than_a_lane() {
        let pool = new();
        let (hanging, other) = (lane(1, LaneHealth::Proven), lane(2, LaneHealth::Proven));
        let new = lane(3, LaneHealth::NeverTried);
        let seats = take_all(&pool, std::slice::from_ref(&hanging));
        assert_eq!(seats.len() as u64, LIMITS.per_lane);
        assert_eq!(pool.offer(&[hanging, other, new], 0), [0, LIMITS.per_lane, LIMITS.per_unproven_lane]);
    }

    #[test]
    fn lanes_that_are_new_or_failing_leave_a_quarter_however_many_they_are() {
        let pool = new();
        let unproven =
            [lanes(0..2_000, LaneHealth::Failing), lanes(2_000..4_000, LaneHealth::NeverTried)].concat();
        let hanging = take_all(&pool, &unproven);
        assert_eq!(hanging.len() as u64, LIMITS.unproven);
        let going_on = take_all(&pool, &lanes(4_000..4_100, LaneHealth::Proven));
        assert_eq!(going_on.len() as u64, SEATS - LIMITS.unproven);
        assert_eq!(pool.room(), 0);
    }

    #[test]
    fn one_address_is_bounded_under_many_names_and_one_client_with_many_receivers() {
        let pool = new();
        let ten = lanes(0..10, LaneHealth::Proven);
        let destination = Destinations::default().of("https://192.0.2.1");
        let same_address: Vec<CountedLane> =
            ten.iter().map(|lane| CountedLane { destination: destination.clone(), ..lane.clone() }).collect();
        let at_address = pool.offer(&same_address, 0).iter().sum::<u64>();
        assert!((100..=LIMITS.per_destination).contains(&at_address), "{at_address}");
        let client = Some(ClientId::generate());
        let many = lanes(0..100, LaneHealth::Proven);
        let same_client: Vec<CountedLane> =
            many.iter().map(|lane| CountedLane { client, ..lane.clone() }).collect();
        assert_eq!(pool.offer(&same_client, 0).iter().sum::<u64>(), LIMITS.per_client);
    }

    #[test]
    fn of_one_address_a_client_takes_no_more_than_it_leaves_to_others() {
        let pool = new();
        let destination = Destinations::default().of("https://192.0.2.1");
        let of_client = |numbers: std::ops::Range<usize>, health| -> Vec<CountedLane> {
            let client = Some(ClientId::generate());
            let lanes = lanes(numbers, health).into_iter();
            lanes.map(|lane| CountedLane { client, destination: destination.clone(), ..lane }).collect()
        };
        let hanging = take_all(&pool, &of_client(0..200, LaneHealth::NeverTried));
        assert_eq!(hanging.len() as u64, LIMITS.per_destination / 2, "a client alone");
        let another = take_all(&pool, &of_client(200..201, LaneHealth::Proven));
        assert_eq!(another.len() as u64, LIMITS.per_lane);
        let one_more = take_all(&pool, &of_client(201..202, LaneHealth::Proven));
        assert_eq!(one_more.len() as u64, LIMITS.per_destination / 8);
        assert!(pool.room_at(&of_client(202..203, LaneHealth::NeverTried)[0]) > 0);
    }

    #[test]
    fn a_new_receiver_of_a_client_with_five_hundred_that_hang_gets_a_seat() {
        let pool = new();
        let client = Some(ClientId::generate());
        let of_client = |lanes: Vec<CountedLane>| -> Vec<CountedLane> {
            lanes.into_iter().map(|lane| CountedLane { client, ..lane }).collect()
        };
        let _hanging = take_all(&pool, &of_client(lanes(0..500, LaneHealth::Failing)));
        let _new = take_all(&pool, &of_client(lanes(500..1_000, LaneHealth::NeverTried)));
        let proven = of_client(lanes(1_000..1_001, LaneHealth::Proven));
        assert_eq!(pool.offer(&proven, 0), [LIMITS.per_client - 1_000]);
    }

    #[test]
    fn however_many_clients_have_receivers_that_hang_one_more_client_has_room_for_its_own() {
        let pool = new();
        let mut hanging = Vec::new();
        for clients in 1..=10 {
            let client = Some(ClientId::generate());
            let of_client = lanes(0..1_000, LaneHealth::NeverTried).into_iter();
            let of_client: Vec<_> = of_client.map(|lane| CountedLane { client, ..lane }).collect();
            let seats = take_all(&pool, &of_client);
            assert!(seats.len() as u64 >= LIMITS.unproven >> (clients + 1), "{clients}: {}", seats.len());
            hanging.push(seats);
        }
    }

    #[test]
    fn clients_are_served_in_turn_and_what_fails_comes_last() {
        let pool = Pool::new(Limits { all: 4, ..Limits::NONE }, Arc::default());
        let client = Some(ClientId::generate());
        let crowd = lanes(0..9, LaneHealth::Failing).into_iter();
        let mut due: Vec<CountedLane> = crowd.map(|lane| CountedLane { client, ..lane }).collect();
        due.extend(lanes(9..10, LaneHealth::NeverTried));
        assert_eq!((pool.offer(&due, 0)[9], pool.offer(&due, 5)[9]), (2, 2), "half for each client");
        due[4].health = LaneHealth::Proven;
        assert_eq!(pool.offer(&due, 0)[4], 1, "before those that fail");
    }

    #[test]
    fn seats_are_shared_evenly_and_the_odd_ones_go_round() {
        let offered = new().offer(&lanes(0..1_800, LaneHealth::Proven), 1_790);
        assert_eq!(offered.iter().sum::<u64>(), SEATS);
        assert!(offered.iter().all(|&offered| offered == 2 || offered == 3), "{offered:?}");
        assert_eq!((offered[1_790], offered[1_799], offered[0], offered[1_789]), (3, 3, 3, 2));
    }

    #[test]
    fn what_is_left_is_free_again_and_leaves_no_trace() {
        let pool = new();
        let taken = [lanes(0..10, LaneHealth::Proven), lanes(10..20, LaneHealth::Failing)].concat();
        let seats = take_all(&pool, &taken);
        assert!(!seats.is_empty() && !pool.is_unused());
        drop(seats);
        assert!(pool.is_unused());
    }
}
