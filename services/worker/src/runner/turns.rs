//! Which client is served within a load key: they take turns, whatever they have queued. Pure.
//!
//! This and the line of clients in `drain.rs` are the places of the fair order: once GPU time is charged to clients, what is
//! kept of each is the time it has had, and the client that had least goes first. Everything else stays.

use std::cmp::Reverse;
use std::collections::HashMap;

use foreman_store::{ClientId, JobId, Offer};

use super::ready::Place;

/// Within a client priority decides, but every tenth time its oldest job goes first, so that nothing starves.
const OLDEST_EVERY: u64 = 10;

/// Past so many remembered clients those are forgotten that have nothing ready.
const MOST_CLIENTS: usize = 4_096;

/// Each offer is one look into the index; places past these have their chance with the next claim.
const MOST_OFFERS: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct Turns {
    /// Counts what was served, and so tells earlier from later.
    served: u64,
    clients: HashMap<ClientId, Standing>,
}

#[derive(Debug, Clone, Copy)]
struct Standing {
    /// When it was last served, or first seen to wait: a newcomer lines up behind those who were there.
    last: u64,
    times: u64,
}

impl Turns {
    /// What a claim of at most `limit` jobs should be offered, in order, from these places of one key: `first` before
    /// everybody, if the claim is for that client's turn. `floor` is the lowest id that a job not yet committed may have:
    /// no bound may lie above it.
    pub(crate) fn offers(
        &mut self,
        places: &[Place],
        first: Option<ClientId>,
        limit: usize,
        floor: JobId,
    ) -> Vec<Offer> {
        self.note(places);
        let mut clients: Vec<(ClientId, Vec<&Place>)> = places
            .chunk_by(|one, other| one.client == other.client)
            .map(|places| (places[0].client, places.iter().collect()))
            .collect();
        clients.sort_by_key(|(client, _)| (Some(*client) != first, self.standing(*client).last, *client));
        for (client, places) in &mut clients {
            if self.standing(*client).times % OLDEST_EVERY == OLDEST_EVERY - 1 {
                places.sort_by_key(|place| place.lowest);
            } else {
                places.sort_by_key(|place| Reverse(place.priority));
            }
        }
        let share = limit.div_ceil(clients.len().max(1));
        // Each client's first choice up to its share, then whatever fills the claim.
        let first = clients.iter().map(|(_, places)| (places[0], share));
        let rest = clients.iter().flat_map(|(_, places)| places[1..].iter().map(|place| (*place, limit)));
        first
            .chain(rest)
            .take(MOST_OFFERS.max(limit))
            .map(|(place, at_most)| Offer {
                client: place.client,
                priority: place.priority,
                lower_bound: place.lowest.min(floor),
                at_most: i32::try_from(at_most).unwrap_or(i32::MAX),
            })
            .collect()
    }

    /// A job of this client was claimed.
    pub(crate) fn served(&mut self, client: ClientId) {
        self.served += 1;
        let last = self.served;
        let standing = self.clients.entry(client).or_insert(Standing { last, times: 0 });
        *standing = Standing { last, times: standing.times + 1 };
    }

    fn standing(&self, client: ClientId) -> Standing {
        self.clients.get(&client).copied().unwrap_or(Standing { last: self.served, times: 0 })
    }

    fn note(&mut self, places: &[Place]) {
        if self.clients.len() > MOST_CLIENTS {
            let waiting: Vec<_> = places.iter().map(|place| place.client).collect();
            self.clients.retain(|client, _| waiting.binary_search(client).is_ok());
        }
        let newcomer = Standing { last: self.served, times: 0 };
        for place in places {
            self.clients.entry(place.client).or_insert(newcomer);
        }
    }
}

#[cfg(test)]
mod tests {
    use foreman_store::ulid_floor;
    use proptest::prelude::*;

    use super::*;

    fn id(number: i64) -> JobId {
        ulid_floor(chrono::DateTime::from_timestamp_millis(number).unwrap())
    }

    fn place(client: u128, priority: i16, lowest: i64) -> Place {
        Place { client: ClientId::from_ulid(client.into()), priority, lowest: id(lowest) }
    }

    /// Client and priority of each offer, with the most it may give.
    fn offers(turns: &mut Turns, places: &[Place], limit: usize) -> Vec<(ClientId, i16, i32)> {
        let offers = turns.offers(places, None, limit, id(1_000));
        offers.into_iter().map(|offer| (offer.client, offer.priority, offer.at_most)).collect()
    }

    #[test]
    fn clients_alternate_however_much_one_of_them_has() {
        let mut turns = Turns::default();
        let places = [place(1, 9, 1), place(2, 0, 2)];
        let served: Vec<ClientId> = (0..6)
            .map(|_| {
                let first = offers(&mut turns, &places, 1)[0].0;
                turns.served(first);
                first
            })
            .collect();
        let (one, two) = (places[0].client, places[1].client);
        assert_eq!(served, [one, two, one, two, one, two]);
    }

    #[test]
    fn a_claim_for_the_turn_of_a_client_offers_its_jobs_first() {
        let (mut turns, places) = (Turns::default(), [place(1, 0, 1), place(2, 0, 2)]);
        let two = places[1].client;
        turns.served(two);
        assert_eq!(turns.offers(&places, Some(two), 1, id(9))[0].client, two);
        assert_ne!(turns.offers(&places, None, 1, id(9))[0].client, two);
    }

    #[test]
    fn several_slots_are_shared_and_what_one_leaves_the_next_may_fill() {
        let places = [place(1, 5, 1), place(1, 0, 1), place(2, 0, 2)];
        let (one, two) = (places[0].client, places[2].client);
        assert_eq!(offers(&mut Turns::default(), &places, 3), [(one, 5, 2), (two, 0, 2), (one, 0, 3)]);
    }

    #[test]
    fn priority_decides_within_a_client_and_every_tenth_time_age() {
        let mut turns = Turns::default();
        let places = [place(1, 5, 20), place(1, -5, 10)];
        let choices: Vec<i16> = (0..20)
            .map(|_| {
                let (client, priority, _) = offers(&mut turns, &places, 1)[0];
                turns.served(client);
                priority
            })
            .collect();
        let tenth = |priorities: &[i16]| priorities.iter().all(|priority| *priority == 5);
        assert!(tenth(&choices[..9]) && tenth(&choices[10..19]), "{choices:?}");
        assert_eq!((choices[9], choices[19]), (-5, -5));
    }

    #[test]
    fn bounds_stay_below_what_may_still_commit() {
        let bounds: Vec<JobId> = Turns::default()
            .offers(&[place(1, 0, 5), place(2, 0, 50)], None, 2, id(20))
            .into_iter()
            .map(|offer| offer.lower_bound)
            .collect();
        assert_eq!(bounds, [id(5), id(20)]);
    }

    proptest! {
        /// However they come and go, nobody who waits is passed over twice by the same other.
        #[test]
        fn no_client_is_served_twice_while_another_waits(
            waiting in prop::collection::vec(prop::collection::btree_set(1..12u128, 1..8), 1..60),
        ) {
            let mut turns = Turns::default();
            let mut since: HashMap<ClientId, Vec<ClientId>> = HashMap::new();
            for clients in waiting {
                let places: Vec<Place> = clients.iter().map(|client| place(*client, 0, 1)).collect();
                since.retain(|client, _| places.iter().any(|place| place.client == *client));
                for place in &places {
                    since.entry(place.client).or_default();
                }
                let first = offers(&mut turns, &places, 1)[0].0;
                turns.served(first);
                since.remove(&first);
                for (client, passed_by) in &mut since {
                    prop_assert!(!passed_by.contains(&first), "{client} waited while {first} was served twice");
                    passed_by.push(first);
                }
            }
        }
    }
}
