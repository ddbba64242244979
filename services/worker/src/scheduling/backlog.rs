//! Where jobs are ready: what the last scan found, changed by the claims since. It may be wrong for a moment, in both
//! directions. If a group has become empty, one claim brings nothing. If a group is missing, the next scan finds it.
//! Pure.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use chrono::TimeDelta;
use foreman_store::{ClientId, JobId, Offer, UserName};

/// A job's id is made up to this long before its commit. So no lower bound may be newer than this, or a claim would
/// skip a job that commits late.
pub(crate) const LATE_COMMITS: TimeDelta = TimeDelta::seconds(2);

/// The ready jobs of one load key that have the same client, user and priority: the sync calls, or the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    pub client: ClientId,
    pub user: UserName,
    pub priority: i16,
    pub sync: bool,
    /// The lowest id that a ready job of this group may have. A scan with the memory (`group_memory.rs`) may miss a
    /// lower one: that job waits for the next look at everything.
    pub lowest: JobId,
}

impl Group {
    fn name(&self) -> GroupName {
        name(self.client, &self.user, self.priority, self.sync)
    }
}

pub(crate) fn name(client: ClientId, user: &UserName, priority: i16, sync: bool) -> GroupName {
    (client, Reverse(priority), Reverse(sync), user.clone())
}

#[derive(Debug)]
pub(crate) struct Backlog<K> {
    keys: BTreeMap<K, Groups>,
    last_scan: ScanNo,
}

/// The number of a scan. A claim tells only about the scan that its offers came from, and about no later one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ScanNo(u64);

/// The lowest id of each group. In the order of clients, with the highest priority of each client first, and its sync calls
/// before its other jobs.
type Groups = BTreeMap<GroupName, JobId>;

/// Client, priority, whether the jobs are sync calls, and user.
pub(crate) type GroupName = (ClientId, Reverse<i16>, Reverse<bool>, UserName);

impl<K> Default for Backlog<K> {
    fn default() -> Self {
        Self { keys: BTreeMap::new(), last_scan: ScanNo::default() }
    }
}

impl<K: Ord + Clone> Backlog<K> {
    /// Replaces everything with what a new scan has found.
    pub(crate) fn scanned(&mut self, groups: impl IntoIterator<Item = (K, Group)>) {
        self.last_scan.0 += 1;
        self.keys.clear();
        for (key, group) in groups {
            let groups = self.keys.entry(key).or_default();
            groups.insert(group.name(), group.lowest);
        }
    }

    pub(crate) fn last_scan(&self) -> ScanNo {
        self.last_scan
    }

    /// The keys that have ready jobs.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.keys.keys()
    }

    /// The clients that have ready jobs of this key, each once.
    pub(crate) fn clients(&self, key: &K) -> Vec<ClientId> {
        let groups = self.keys.get(key).into_iter().flatten();
        let mut clients: Vec<ClientId> = groups.map(|((client, ..), _)| *client).collect();
        clients.dedup();
        clients
    }

    pub(crate) fn has(&self, key: &K) -> bool {
        self.keys.contains_key(key)
    }

    /// The groups of this key, client by client, with the highest priority of each client first.
    pub(crate) fn groups(&self, key: &K) -> Vec<Group> {
        let groups = self.keys.get(key).into_iter().flatten();
        let group = |((client, priority, sync, user), lowest): (&GroupName, &JobId)| Group {
            client: *client,
            user: user.clone(),
            priority: priority.0,
            sync: sync.0,
            lowest: *lowest,
        };
        groups.map(group).collect()
    }

    /// Learns what a claim of at most `limit` jobs brought. Lower bounds rise, and a group that gave fewer jobs than
    /// its offer asked for is removed. If a newer scan has arrived meanwhile, the claim changes nothing: the scan may
    /// have found jobs that the claim could not see.
    pub(crate) fn claimed(
        &mut self,
        key: &K,
        offers: &[Offer],
        limit: usize,
        brought: &[(GroupName, JobId)],
        offered: ScanNo,
    ) {
        if offered != self.last_scan {
            return;
        }
        let Some(groups) = self.keys.get_mut(key) else { return };
        let of = |offer: &Offer| {
            let group = name(offer.client, &offer.user, offer.priority, offer.sync);
            brought.iter().filter(move |job| job.0 == group).map(|job| job.1)
        };
        // A full claim stopped at its limit, partway through the offers. It proves nothing about the last offer that
        // brought a job, or about the offers after that one.
        let full = brought.len() >= limit;
        let last = offers.iter().rposition(|offer| of(offer).next().is_some());
        for (nth, offer) in offers.iter().enumerate() {
            let group = name(offer.client, &offer.user, offer.priority, offer.sync);
            let exhausted = of(offer).count() < usize::try_from(offer.at_most).unwrap_or(0)
                && (!full || last.is_some_and(|last| nth < last));
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
        Offer {
            load_key: "a".into(),
            client: group.client,
            user: group.user,
            priority: group.priority,
            sync: group.sync,
            lower_bound: group.lowest,
            at_most,
        }
    }

    fn group(number: u128, priority: i16, lowest: i64) -> Group {
        let user = UserName::default();
        Group { client: client(number), user, priority, sync: false, lowest: id(lowest) }
    }

    #[test]
    fn a_scan_replaces_what_was_known() {
        let mut backlog = Backlog::default();
        backlog.scanned([('a', group(1, 0, 10)), ('b', group(1, 0, 11))]);
        backlog.scanned([('b', group(2, 0, 12))]);
        assert_eq!(backlog.keys().collect::<Vec<_>>(), [&'b']);
        assert_eq!(backlog.groups(&'b'), [group(2, 0, 12)]);
        assert_eq!(backlog.groups(&'a'), []);
    }

    #[test]
    fn groups_come_by_client_with_the_highest_priority_first() {
        let mut backlog = Backlog::default();
        backlog.scanned([('a', group(2, 0, 1)), ('a', group(1, -5, 2)), ('a', group(1, 7, 3))]);
        assert_eq!(backlog.groups(&'a'), [group(1, 7, 3), group(1, -5, 2), group(2, 0, 1)]);
        assert_eq!(backlog.clients(&'a'), [client(1), client(2)]);
    }

    #[test]
    fn a_claim_that_was_served_in_full_raises_the_bound() {
        let mut backlog = Backlog::default();
        let group = group(1, 0, 10);
        backlog.scanned([('a', group.clone())]);
        backlog.claimed(
            &'a',
            &[offer(group.clone(), 2)],
            2,
            &[(group.name(), id(10)), (group.name(), id(15))],
            backlog.last_scan(),
        );
        assert_eq!(backlog.groups(&'a'), [Group { lowest: id(15), ..group.clone() }]);
    }

    #[test]
    fn a_group_that_gave_less_than_it_was_asked_for_is_done_with() {
        let mut backlog = Backlog::default();
        let (one, two) = (group(1, 0, 10), group(2, 0, 20));
        backlog.scanned([('a', one.clone()), ('a', two.clone())]);
        backlog.claimed(
            &'a',
            &[offer(one.clone(), 4), offer(two.clone(), 4)],
            8,
            &[(two.name(), id(20))],
            backlog.last_scan(),
        );
        assert!(!backlog.has(&'a') && backlog.keys().next().is_none());
    }

    #[test]
    fn a_full_claim_says_nothing_of_the_offers_it_did_not_reach() {
        let mut backlog = Backlog::default();
        let (one, two, three) = (group(1, 0, 10), group(2, 0, 20), group(3, 0, 30));
        backlog.scanned([('a', one.clone()), ('a', two.clone()), ('a', three.clone())]);
        let offers = [offer(one.clone(), 2), offer(two.clone(), 2), offer(three.clone(), 2)];
        backlog.claimed(&'a', &offers, 2, &[(one.name(), id(10)), (two.name(), id(20))], backlog.last_scan());
        assert_eq!(backlog.groups(&'a'), [two, three], "one had a single job; two may have more");
    }

    #[test]
    fn a_job_that_a_scan_found_while_a_claim_was_under_way_is_not_forgotten() {
        let mut backlog = Backlog::default();
        let group = group(1, 0, 10);
        backlog.scanned([('a', group.clone())]);
        let offered = backlog.last_scan();
        let newer = Group { lowest: id(12), ..group.clone() };
        backlog.scanned([('a', newer.clone())]);
        backlog.claimed(&'a', &[offer(group.clone(), 4)], 4, &[(group.name(), id(10))], offered);
        assert_eq!(backlog.groups(&'a'), [newer]);
    }
}
