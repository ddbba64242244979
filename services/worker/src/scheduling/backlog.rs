//! Where jobs are ready, as the last scan found them and as claims have changed it since. Pure. It may be wrong either
//! way for a moment: a group that turns out empty costs a claim that brings nothing, and one that is missing here is
//! found by the next scan.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use chrono::TimeDelta;
use foreman_store::{ClientId, JobId, Offer};

/// Ids are stamped before they commit. No bound may pass an id that can still come.
pub(crate) const LATE_COMMITS: TimeDelta = TimeDelta::seconds(2);

/// One client's ready jobs of one priority, within a load key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Group {
    pub client: ClientId,
    pub priority: i16,
    /// No job of this group that was there at the scan and is still ready has a smaller id. A scan with the memory
    /// (`group_memory.rs`) may err: such a job waits for the next look at everything.
    pub lowest: JobId,
}

#[derive(Debug)]
pub(crate) struct Backlog<K> {
    keys: BTreeMap<K, Places>,
    scan: Scan,
}

/// Numbers the scans. What a claim says holds of the scan whose groups it was offered, and of no later one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Scan(u64);

/// In the order of clients, the highest priority of each first.
type Places = BTreeMap<(ClientId, Reverse<i16>), JobId>;

impl<K> Default for Backlog<K> {
    fn default() -> Self {
        Self { keys: BTreeMap::new(), scan: Scan::default() }
    }
}

impl<K: Ord + Clone> Backlog<K> {
    /// What a scan found, in place of all that was known.
    pub(crate) fn scanned(&mut self, groups: impl IntoIterator<Item = (K, Group)>) {
        self.scan.0 += 1;
        self.keys.clear();
        for (key, group) in groups {
            let groups = self.keys.entry(key).or_default();
            groups.insert((group.client, Reverse(group.priority)), group.lowest);
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
        let groups = self.keys.get(key).into_iter().flatten();
        let mut clients: Vec<ClientId> = groups.map(|((client, _), _)| *client).collect();
        clients.dedup();
        clients
    }

    pub(crate) fn has(&self, key: &K) -> bool {
        self.keys.contains_key(key)
    }

    /// Where a key has work: client by client, the highest priority of each first.
    pub(crate) fn groups(&self, key: &K) -> Vec<Group> {
        let groups = self.keys.get(key).into_iter().flatten();
        groups.map(|(&(client, Reverse(priority)), &lowest)| Group { client, priority, lowest }).collect()
    }

    /// Takes note of what a claim of at most `limit` jobs brought, in the order of its offers: bounds rise, and groups
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
        let Some(groups) = self.keys.get_mut(key) else { return };
        let of = |offer: &Offer| {
            let (client, priority) = (offer.client, offer.priority);
            brought.iter().filter(move |job| (job.0, job.1) == (client, priority)).map(|job| job.2)
        };
        // A claim that is full stopped within an offer: of those from there on, little was said.
        let full = brought.len() >= limit;
        let last = offers.iter().rposition(|offer| of(offer).next().is_some());
        for (turn, offer) in offers.iter().enumerate() {
            let group = (offer.client, Reverse(offer.priority));
            let exhausted = of(offer).count() < usize::try_from(offer.at_most).unwrap_or(0)
                && (!full || last.is_some_and(|last| turn < last));
            if exhausted {
                groups.remove(&group);
            } else if let (Some(lowest), Some(highest)) = (groups.get_mut(&group), of(offer).max()) {
                *lowest = highest.max(*lowest);
            }
        }
        if groups.is_empty() {
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

    fn offer(group: Group, at_most: i32) -> Offer {
        Offer { client: group.client, priority: group.priority, lower_bound: group.lowest, at_most }
    }

    fn group(number: u128, priority: i16, lowest: i64) -> Group {
        Group { client: client(number), priority, lowest: id(lowest) }
    }

    #[test]
    fn a_scan_replaces_what_was_known() {
        let mut ready = Backlog::default();
        ready.scanned([('a', group(1, 0, 10)), ('b', group(1, 0, 11))]);
        ready.scanned([('b', group(2, 0, 12))]);
        assert_eq!(ready.keys().collect::<Vec<_>>(), [&'b']);
        assert_eq!(ready.groups(&'b'), [group(2, 0, 12)]);
        assert_eq!(ready.groups(&'a'), []);
    }

    #[test]
    fn places_come_by_client_with_the_highest_priority_first() {
        let mut ready = Backlog::default();
        ready.scanned([('a', group(2, 0, 1)), ('a', group(1, -5, 2)), ('a', group(1, 7, 3))]);
        assert_eq!(ready.groups(&'a'), [group(1, 7, 3), group(1, -5, 2), group(2, 0, 1)]);
        assert_eq!(ready.clients(&'a'), [client(1), client(2)]);
    }

    #[test]
    fn a_claim_that_was_served_in_full_raises_the_bound() {
        let mut ready = Backlog::default();
        let group = group(1, 0, 10);
        ready.scanned([('a', group)]);
        ready.claimed(
            &'a',
            &[offer(group, 2)],
            2,
            &[(group.client, 0, id(10)), (group.client, 0, id(15))],
            ready.scan(),
        );
        assert_eq!(ready.groups(&'a'), [Group { lowest: id(15), ..group }]);
    }

    #[test]
    fn a_place_that_gave_less_than_it_was_asked_for_is_done_with() {
        let mut ready = Backlog::default();
        let (one, two) = (group(1, 0, 10), group(2, 0, 20));
        ready.scanned([('a', one), ('a', two)]);
        ready.claimed(&'a', &[offer(one, 4), offer(two, 4)], 8, &[(two.client, 0, id(20))], ready.scan());
        assert!(!ready.has(&'a') && ready.keys().next().is_none());
    }

    #[test]
    fn a_full_claim_says_nothing_of_the_offers_it_did_not_reach() {
        let mut ready = Backlog::default();
        let (one, two, three) = (group(1, 0, 10), group(2, 0, 20), group(3, 0, 30));
        ready.scanned([('a', one), ('a', two), ('a', three)]);
        let offers = [offer(one, 2), offer(two, 2), offer(three, 2)];
        ready.claimed(&'a', &offers, 2, &[(one.client, 0, id(10)), (two.client, 0, id(20))], ready.scan());
        assert_eq!(ready.groups(&'a'), [two, three], "one had a single job; two may have more");
    }

    #[test]
    fn a_job_that_a_scan_found_while_a_claim_was_under_way_is_not_forgotten() {
        let mut ready = Backlog::default();
        let group = group(1, 0, 10);
        ready.scanned([('a', group)]);
        let offered = ready.scan();
        let newer = Group { lowest: id(12), ..group };
        ready.scanned([('a', newer)]);
        ready.claimed(&'a', &[offer(group, 4)], 4, &[(group.client, 0, id(10))], offered);
        assert_eq!(ready.groups(&'a'), [newer]);
    }
}
