//! Where jobs are ready, as the last scan found them and as claims have changed it since. Pure. It may be wrong either
//! way for a moment: a place that turns out empty costs a claim that brings nothing, and one that is missing here is
//! found by the next scan.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use chrono::TimeDelta;
use foreman_store::{ClientId, JobId, Offer};

/// Ids are stamped before they commit. No bound may pass an id that can still come.
pub(crate) const LATE_COMMITS: TimeDelta = TimeDelta::seconds(2);

/// One client's ready jobs of one priority, within a load key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub client: ClientId,
    pub priority: i16,
    /// No job of this place that was there at the scan and is still ready has a smaller id. A scan with the memory
    /// (`place_memory.rs`) may err: such a job waits for the next look at everything.
    pub lowest: JobId,
}

#[derive(Debug)]
pub(crate) struct Ready<K> {
    keys: BTreeMap<K, Places>,
    scan: Scan,
}

/// Numbers the scans. What a claim says holds of the scan that it was offered places of, and of no later one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Scan(u64);

/// In the order of clients, the highest priority of each first.
type Places = BTreeMap<(ClientId, Reverse<i16>), JobId>;

impl<K> Default for Ready<K> {
    fn default() -> Self {
        Self { keys: BTreeMap::new(), scan: Scan::default() }
    }
}

impl<K: Ord + Clone> Ready<K> {
    /// What a scan found, in place of all that was known.
    pub(crate) fn scanned(&mut self, places: impl IntoIterator<Item = (K, Place)>) {
        self.scan.0 += 1;
        self.keys.clear();
        for (key, place) in places {
            let places = self.keys.entry(key).or_default();
            places.insert((place.client, Reverse(place.priority)), place.lowest);
        }
    }

    /// The last scan.
    pub(crate) fn scan(&self) -> Scan {
        self.scan
    }

    /// The keys that have work.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.keys.keys()
    }

    /// The clients that have work of a key, each once.
    pub(crate) fn clients(&self, key: &K) -> Vec<ClientId> {
        let places = self.keys.get(key).into_iter().flatten();
        let mut clients: Vec<ClientId> = places.map(|((client, _), _)| *client).collect();
        clients.dedup();
        clients
    }

    pub(crate) fn has(&self, key: &K) -> bool {
        self.keys.contains_key(key)
    }

    /// Where a key has work: client by client, the highest priority of each first.
    pub(crate) fn places(&self, key: &K) -> Vec<Place> {
        let places = self.keys.get(key).into_iter().flatten();
        places.map(|(&(client, Reverse(priority)), &lowest)| Place { client, priority, lowest }).collect()
    }

    /// Takes note of what a claim of at most `limit` jobs brought, in the order of its offers: bounds rise, and places
    /// that gave less than they were asked for are done with. A claim that was overtaken by a scan says nothing: there
    /// may be jobs by now that it could not see.
    pub(crate) fn claimed(
        &mut self,
        key: &K,
        offers: &[Offer],
        limit: usize,
        brought: &[(ClientId, i16, JobId)],
        offered: Scan,
    ) {
        if offered != self.scan {
            return;
        }
        let Some(places) = self.keys.get_mut(key) else { return };
        let of = |offer: &Offer| {
            let (client, priority) = (offer.client, offer.priority);
            brought.iter().filter(move |job| (job.0, job.1) == (client, priority)).map(|job| job.2)
        };
        // A claim that is full stopped within an offer: of those from there on, little was said.
        let full = brought.len() >= limit;
        let last = offers.iter().rposition(|offer| of(offer).next().is_some());
        for (turn, offer) in offers.iter().enumerate() {
            let place = (offer.client, Reverse(offer.priority));
            let exhausted = of(offer).count() < usize::try_from(offer.at_most).unwrap_or(0)
                && (!full || last.is_some_and(|last| turn < last));
            if exhausted {
                places.remove(&place);
            } else if let (Some(lowest), Some(highest)) = (places.get_mut(&place), of(offer).max()) {
                *lowest = highest.max(*lowest);
            }
        }
        if places.is_empty() {
            self.keys.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use foreman_store::ulid_floor;

    use super::*;

    fn id(number: i64) -> JobId {
        ulid_floor(chrono::DateTime::from_timestamp_millis(number).unwrap())
    }

    fn client(number: u128) -> ClientId {
        ClientId::from_ulid(number.into())
    }

    fn offer(place: Place, at_most: i32) -> Offer {
        Offer { client: place.client, priority: place.priority, lower_bound: place.lowest, at_most }
    }

    fn place(number: u128, priority: i16, lowest: i64) -> Place {
        Place { client: client(number), priority, lowest: id(lowest) }
    }

    #[test]
    fn a_scan_replaces_what_was_known() {
        let mut ready = Ready::default();
        ready.scanned([('a', place(1, 0, 10)), ('b', place(1, 0, 11))]);
        ready.scanned([('b', place(2, 0, 12))]);
        assert_eq!(ready.keys().collect::<Vec<_>>(), [&'b']);
        assert_eq!(ready.places(&'b'), [place(2, 0, 12)]);
        assert_eq!(ready.places(&'a'), []);
    }

    #[test]
    fn places_come_by_client_with_the_highest_priority_first() {
        let mut ready = Ready::default();
        ready.scanned([('a', place(2, 0, 1)), ('a', place(1, -5, 2)), ('a', place(1, 7, 3))]);
        assert_eq!(ready.places(&'a'), [place(1, 7, 3), place(1, -5, 2), place(2, 0, 1)]);
        assert_eq!(ready.clients(&'a'), [client(1), client(2)]);
    }

    #[test]
    fn a_claim_that_was_served_in_full_raises_the_bound() {
        let mut ready = Ready::default();
        let place = place(1, 0, 10);
        ready.scanned([('a', place)]);
        ready.claimed(
            &'a',
            &[offer(place, 2)],
            2,
            &[(place.client, 0, id(10)), (place.client, 0, id(15))],
            ready.scan(),
        );
        assert_eq!(ready.places(&'a'), [Place { lowest: id(15), ..place }]);
    }

    #[test]
    fn a_place_that_gave_less_than_it_was_asked_for_is_done_with() {
        let mut ready = Ready::default();
        let (one, two) = (place(1, 0, 10), place(2, 0, 20));
        ready.scanned([('a', one), ('a', two)]);
        ready.claimed(&'a', &[offer(one, 4), offer(two, 4)], 8, &[(two.client, 0, id(20))], ready.scan());
        assert!(!ready.has(&'a') && ready.keys().next().is_none());
    }

    #[test]
    fn a_full_claim_says_nothing_of_the_offers_it_did_not_reach() {
        let mut ready = Ready::default();
        let (one, two, three) = (place(1, 0, 10), place(2, 0, 20), place(3, 0, 30));
        ready.scanned([('a', one), ('a', two), ('a', three)]);
        let offers = [offer(one, 2), offer(two, 2), offer(three, 2)];
        ready.claimed(&'a', &offers, 2, &[(one.client, 0, id(10)), (two.client, 0, id(20))], ready.scan());
        assert_eq!(ready.places(&'a'), [two, three], "one had a single job; two may have more");
    }

    #[test]
    fn a_job_that_a_scan_found_while_a_claim_was_under_way_is_not_forgotten() {
        let mut ready = Ready::default();
        let place = place(1, 0, 10);
        ready.scanned([('a', place)]);
        let offered = ready.scan();
        let newer = Place { lowest: id(12), ..place };
        ready.scanned([('a', newer)]);
        ready.claimed(&'a', &[offer(place, 4)], 4, &[(place.client, 0, id(10))], offered);
        assert_eq!(ready.places(&'a'), [newer]);
    }
}
