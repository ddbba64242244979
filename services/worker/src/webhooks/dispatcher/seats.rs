//! Who may send how much at the same time. A receiver that hangs, a client that sends much and a receiver that many
//! clients name each get a bounded part of the seats, so that none of them can stop the others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foreman_store::{ClientId, LaneId};

use super::destination::Destination;
use crate::alarm::Alarm;

/// Attempts at the same time.
const SEATS: usize = 256;

/// Of these for lanes that have not proved themselves: new ones, and those whose last attempt failed. However many of
/// them hang, three quarters of the seats go on.
const UNPROVEN: usize = SEATS / 4;

/// Of these for one lane: it takes many that hang to keep a new receiver waiting for its first webhook.
const UNPROVEN_LANE: usize = 4;

/// For one lane: a receiver that answers in 10 ms gets 3,200 webhooks a second with it.
const LANE: usize = 32;

/// For one address and port, under however many names and by however many clients it is called.
const DESTINATION: usize = SEATS / 4;

/// For one client, whatever number of receivers it names.
const CLIENT: usize = SEATS / 2;

/// What a delivery is counted under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CountedLane {
    pub(super) lane: LaneId,
    /// `None` where the lane's row is gone; then only the lane itself is counted.
    pub(super) client: Option<ClientId>,
    pub(super) destination: Option<Destination>,
    /// Whether the lane's last attempt succeeded.
    pub(super) proven: bool,
}

/// The seats, shared by those who take them and those who leave.
#[derive(Debug, Clone)]
pub(super) struct Seats {
    taken: Arc<Mutex<Taken>>,
    /// Rings when a seat is free again.
    alarm: Arc<Alarm>,
}

/// The right to one attempt, given back on drop.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Seats,
    lane: CountedLane,
}

#[derive(Debug, Clone, Default)]
struct Taken {
    all: usize,
    unproven: usize,
    lanes: HashMap<LaneId, usize>,
    clients: HashMap<ClientId, usize>,
    destinations: HashMap<Destination, usize>,
}

impl Seats {
    pub(super) fn new(alarm: Arc<Alarm>) -> Self {
        Self { taken: Arc::default(), alarm }
    }

    pub(super) fn is_full(&self) -> bool {
        self.taken().all >= SEATS
    }

    /// How many seats each of these lanes may have now. They get one each in turn, from `first` on, until nothing is
    /// left that any of them may have.
    pub(super) fn offer(&self, lanes: &[CountedLane], first: usize) -> Vec<usize> {
        let mut trial = self.taken().clone();
        let mut offered = vec![0; lanes.len()];
        let mut hungry: Vec<usize> = (first..lanes.len()).chain(0..first.min(lanes.len())).collect();
        while !hungry.is_empty() {
            hungry.retain(|&index| {
                let admitted = trial.admits(&lanes[index]);
                if admitted {
                    trial.enter(&lanes[index]);
                    offered[index] += 1;
                }
                admitted
            });
        }
        offered
    }

    /// Takes a seat that was offered.
    pub(super) fn take(&self, lane: CountedLane) -> Seat {
        self.taken().enter(&lane);
        Seat { seats: self.clone(), lane }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.taken().leave(&self.lane);
        self.seats.alarm.wake.notify_one();
    }
}

impl Taken {
    fn admits(&self, lane: &CountedLane) -> bool {
        let of_client = lane.client.map_or(0, |client| count(&self.clients, &client));
        let of_destination = lane.destination.as_ref().map_or(0, |one| count(&self.destinations, one));
        self.all < SEATS
            && (lane.proven || self.unproven < UNPROVEN)
            && count(&self.lanes, &lane.lane) < if lane.proven { LANE } else { UNPROVEN_LANE }
            && of_client < CLIENT
            && of_destination < DESTINATION
    }

    fn enter(&mut self, lane: &CountedLane) {
        self.all += 1;
        self.unproven += usize::from(!lane.proven);
        *self.lanes.entry(lane.lane).or_default() += 1;
        if let Some(client) = lane.client {
            *self.clients.entry(client).or_default() += 1;
        }
        if let Some(destination) = &lane.destination {
            *self.destinations.entry(destination.clone()).or_default() += 1;
        }
    }

    fn leave(&mut self, lane: &CountedLane) {
        self.all -= 1;
        self.unproven -= usize::from(!lane.proven);
        decrease(&mut self.lanes, &lane.lane);
        if let Some(client) = lane.client {
            decrease(&mut self.clients, &client);
        }
        if let Some(destination) = &lane.destination {
            decrease(&mut self.destinations, destination);
        }
    }
}

fn count<K: std::hash::Hash + Eq>(counts: &HashMap<K, usize>, key: &K) -> usize {
    counts.get(key).copied().unwrap_or_default()
}

/// Entries at zero go, so that the maps are no larger than the number of seats.
fn decrease<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::webhooks::dispatcher::destination::Destinations;

    fn new() -> Seats {
        Seats::new(Arc::new(Alarm::new()))
    }

    /// A lane of its own client and destination, unless they are set afterwards.
    fn lane(number: usize, proven: bool) -> CountedLane {
        let client = ClientId::generate();
        let origin = format!("https://receiver-{number}.example");
        let lane = LaneId::derive(client, &origin);
        CountedLane { lane, client: Some(client), destination: Destinations::default().of(&origin), proven }
    }

    fn take_all(pool: &Seats, lanes: &[CountedLane]) -> Vec<Seat> {
        let offered = pool.offer(lanes, 0);
        let seats = lanes.iter().zip(offered);
        seats.flat_map(|(lane, offered)| (0..offered).map(|_| pool.take(lane.clone()))).collect()
    }

    #[test]
    fn a_hanging_receiver_gets_no_more_than_a_lane() {
        let pool = new();
        let (hanging, other, new) = (lane(1, true), lane(2, true), lane(3, false));
        let seats = take_all(&pool, std::slice::from_ref(&hanging));
        assert_eq!(seats.len(), LANE);
        assert_eq!(pool.offer(&[hanging, other, new], 0), [0, LANE, UNPROVEN_LANE]);
    }

    #[test]
    fn lanes_that_are_new_or_failing_share_a_quarter_however_many_they_are() {
        let pool = new();
        let failing: Vec<CountedLane> = (0..100).map(|number| lane(number, false)).collect();
        let hanging = take_all(&pool, &failing);
        assert_eq!(hanging.len(), UNPROVEN);
        let proven: Vec<CountedLane> = (100..200).map(|number| lane(number, true)).collect();
        let going_on = take_all(&pool, &proven);
        assert_eq!(going_on.len(), SEATS - UNPROVEN);
        assert!(pool.is_full());
    }

    #[test]
    fn one_address_is_bounded_under_many_names_and_one_client_with_many_receivers() {
        let pool = new();
        let destination = Destinations::default().of("https://192.0.2.1");
        let same_address: Vec<CountedLane> = (0..10)
            .map(|number| CountedLane { destination: destination.clone(), ..lane(number, true) })
            .collect();
        assert_eq!(pool.offer(&same_address, 0).iter().sum::<usize>(), DESTINATION);
        let client = Some(ClientId::generate());
        let same_client: Vec<CountedLane> =
            (0..10).map(|number| CountedLane { client, ..lane(number, true) }).collect();
        assert_eq!(pool.offer(&same_client, 0).iter().sum::<usize>(), CLIENT);
    }

    #[test]
    fn seats_are_shared_evenly_and_the_odd_ones_go_round() {
        let pool = new();
        let lanes: Vec<CountedLane> = (0..100).map(|number| lane(number, true)).collect();
        let offered = pool.offer(&lanes, 90);
        assert_eq!(offered.iter().sum::<usize>(), SEATS);
        assert!(offered.iter().all(|&offered| offered == 2 || offered == 3), "{offered:?}");
        assert_eq!((offered[90], offered[99], offered[0], offered[89]), (3, 3, 3, 2));
    }

    #[test]
    fn what_is_left_is_free_again_and_leaves_no_trace() {
        let pool = new();
        let seats = take_all(&pool, &(0..20).map(|number| lane(number, number % 2 == 0)).collect::<Vec<_>>());
        assert!(!seats.is_empty());
        drop(seats);
        let taken = pool.taken();
        assert_eq!((taken.all, taken.unproven), (0, 0));
        assert!(taken.lanes.is_empty() && taken.clients.is_empty() && taken.destinations.is_empty());
    }
}
