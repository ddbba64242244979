//! Where jobs are ready: what the last scan found, changed by the claims since. It may be wrong for a moment, in both
//! directions. If a group has become empty, one claim brings nothing. If a group is missing, the next scan finds it.
//! Pure.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, btree_set};

use chrono::TimeDelta;
use foreman_store::{ClientId, JobId, Offer, UserName};

use super::contexts;
use super::key::Key;
use super::shares::Had;

/// A job's id is made before its commit, by less than this unless Postgres is slow. So no lower bound may be newer than this, or
/// a claim would skip a job that commits late. One that commits even later waits for the next look at everything.
pub(crate) const LATE_COMMITS: TimeDelta = TimeDelta::seconds(2);

/// The ready jobs of one client, user and load key that have the same priority, and are sync calls or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    pub key: Key,
    pub client: ClientId,
    pub user: UserName,
    pub priority: i16,
    pub sync: bool,
    /// The lowest id that a ready job of this group may have. A scan with the memory (`group_memory.rs`) may miss a
    /// lower one: that job waits for the next look at everything.
    pub lowest: JobId,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Backlog {
    /// By load key without its context: what one runner may serve.
    models: BTreeMap<Key, Model>,
    /// Of which of them each client has ready jobs.
    clients: BTreeMap<ClientId, BTreeSet<Key>>,
    last_scan: ScanNo,
}

/// The number of a scan. A claim tells only about the scan that its offers came from, and about no later one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ScanNo(u64);

/// The ready jobs of one model, context aside.
#[derive(Debug, Clone, Default)]
struct Model {
    keys: Keys,
    queues: BTreeMap<ClientId, Queue>,
}

/// The ready jobs of one client for one model, context aside.
#[derive(Debug, Clone, Default)]
pub(crate) struct Queue {
    keys: Keys,
    users: HashMap<UserName, (Had, Vec<Group>)>,
    /// The users, with whoever has had least in front. So a claim looks at a few of them, however many there are.
    line: BTreeSet<(Had, UserName)>,
}

/// The load keys that wait, and how many groups wait for each.
#[derive(Debug, Clone, Default)]
struct Keys(BTreeMap<Key, Waiting>);

#[derive(Debug, Clone)]
struct Waiting {
    groups: usize,
    /// Of these, the groups of sync calls.
    sync: usize,
    /// The user of all groups that the last scan found. `None` if it found several users.
    only_user: Option<UserName>,
}

impl Backlog {
    /// Replaces everything with what a new scan has found. `had` tells what a user has had of its client's share.
    pub(crate) fn scanned(&mut self, groups: Vec<Group>, had: impl Fn(ClientId, &UserName) -> Had) {
        self.last_scan.0 += 1;
        self.models.clear();
        self.clients.clear();
        let mut bases: HashMap<Key, Key> = HashMap::new();
        for group in groups {
            let base = bases.entry(Key::clone(&group.key)).or_insert_with(|| contexts::base(&group.key));
            let of_client = self.clients.entry(group.client).or_default();
            if !of_client.contains(base) {
                of_client.insert(Key::clone(base));
            }
            let model = self.models.entry(Key::clone(base)).or_default();
            model.keys.add(&group);
            model.queues.entry(group.client).or_default().add(group, &had);
        }
    }

    pub(crate) fn last_scan(&self) -> ScanNo {
        self.last_scan
    }

    /// The load keys without their contexts of which jobs are ready.
    pub(crate) fn models(&self) -> impl Iterator<Item = &Key> {
        self.models.keys()
    }

    /// Every group.
    pub(crate) fn groups(&self) -> impl Iterator<Item = &Group> {
        let queues = self.models.values().flat_map(|model| model.queues.values());
        queues.flat_map(|queue| queue.users.values()).flat_map(|(_, groups)| groups)
    }

    /// The load keys that wait, of a model.
    pub(crate) fn keys(&self, base: &Key) -> impl Iterator<Item = &Key> {
        self.models.get(base).into_iter().flat_map(|model| model.keys.0.keys())
    }

    /// Whether sync calls wait for this load key.
    pub(crate) fn has_sync(&self, base: &Key, key: &Key) -> bool {
        self.models.get(base).is_some_and(|model| model.keys.has_sync(key))
    }

    /// The clients that have ready jobs.
    pub(crate) fn clients(&self) -> impl Iterator<Item = ClientId> {
        self.clients.keys().copied()
    }

    /// The clients that have ready jobs of a model.
    pub(crate) fn clients_of(&self, base: &Key) -> impl Iterator<Item = (ClientId, &Queue)> {
        self.models
            .get(base)
            .into_iter()
            .flat_map(|model| &model.queues)
            .map(|(client, queue)| (*client, queue))
    }

    /// What a client has ready jobs of, by load key without its context.
    pub(crate) fn queues(&self, client: ClientId) -> impl Iterator<Item = (&Key, &Queue)> {
        let bases = self.clients.get(&client).into_iter().flatten();
        bases.filter_map(move |base| Some((base, self.models.get(base)?.queues.get(&client)?)))
    }

    /// The ready jobs of a client for a model.
    pub(crate) fn queue(&self, client: ClientId, base: &Key) -> Option<&Queue> {
        self.models.get(base)?.queues.get(&client)
    }

    /// Whether this user has ready jobs.
    pub(crate) fn has(&self, client: ClientId, user: &UserName) -> bool {
        self.queues(client).any(|(_, queue)| queue.users.contains_key(user))
    }

    /// A user has had more or less than before.
    pub(crate) fn moved(&mut self, client: ClientId, user: &UserName, had: Had) {
        for base in self.clients.get(&client).into_iter().flatten() {
            let queue = self.models.get_mut(base).and_then(|model| model.queues.get_mut(&client));
            queue.into_iter().for_each(|queue| queue.moved(user, had));
        }
    }

    /// The least that a user of this client has had who waits for one of these load keys.
    pub(crate) fn least(&self, client: ClientId, is_one: impl Fn(&Key) -> bool) -> Option<Had> {
        let of_queue = |(_, queue): (_, &Queue)| {
            let waits = |user: &UserName| queue.groups(user).iter().any(|group| is_one(&group.key));
            queue.line().find(|(_, user)| waits(user)).map(|(had, _)| *had)
        };
        self.queues(client).filter_map(of_queue).min()
    }

    /// Learns what a claim of at most `limit` jobs brought: for each job, for which offer, and its id. Lower bounds rise,
    /// and a group that gave fewer jobs than its offer asked for is removed. If a newer scan has arrived meanwhile, the
    /// claim changes nothing: the scan may have found jobs that the claim could not see.
    pub(crate) fn claimed(
        &mut self,
        base: &Key,
        offers: &[Offer],
        limit: usize,
        brought: &[(usize, JobId)],
        offered: ScanNo,
    ) {
        if offered != self.last_scan {
            return;
        }
        let Some(model) = self.models.get_mut(base) else { return };
        let of = |offer: usize| brought.iter().filter(move |job| job.0 == offer).map(|job| job.1);
        // A full claim stopped at its limit, partway through the offers. It proves nothing about the last offer that
        // brought a job, or about the offers after that one.
        let full = brought.len() >= limit;
        let last = brought.iter().map(|job| job.0).max();
        for (nth, offer) in offers.iter().enumerate() {
            let Some(queue) = model.queues.get_mut(&offer.client) else { continue };
            let exhausted = of(nth).count() < usize::try_from(offer.at_most).unwrap_or(0)
                && (!full || last.is_some_and(|last| nth < last));
            let Some(removed) = queue.claimed(offer, exhausted, of(nth).max()) else { continue };
            model.keys.remove(&removed);
            if queue.keys.0.is_empty() {
                model.queues.remove(&offer.client);
                let of_client = self.clients.get_mut(&offer.client);
                if of_client.is_some_and(|bases| bases.remove(base) && bases.is_empty()) {
                    self.clients.remove(&offer.client);
                }
            }
        }
        if model.queues.is_empty() {
            self.models.remove(base);
        }
    }
}

impl Group {
    /// Whether this offer is for jobs of this group.
    pub(crate) fn is_in(&self, offer: &Offer) -> bool {
        (self.client, &self.user, self.priority, self.sync)
            == (offer.client, &offer.user, offer.priority, offer.sync)
            && *self.key.as_str() == *offer.load_key
    }
}

impl Queue {
    fn add(&mut self, group: Group, had: impl Fn(ClientId, &UserName) -> Had) {
        self.keys.add(&group);
        let line = &mut self.line;
        let (_, groups) = self.users.entry(group.user.clone()).or_insert_with_key(|user| {
            let had = had(group.client, user);
            line.insert((had, user.clone()));
            (had, Vec::new())
        });
        let place = |group: &Group| (Reverse(group.priority), Reverse(group.sync), group.lowest);
        let nth = groups.partition_point(|before| place(before) <= place(&group));
        groups.insert(nth, group);
    }

    /// The load keys that wait.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.keys.0.keys()
    }

    /// The user that waits for this load key, if it is a single one.
    pub(crate) fn only_user(&self, key: &Key) -> Option<&UserName> {
        self.keys.0.get(key).and_then(|waiting| waiting.only_user.as_ref())
    }

    /// Whether jobs wait for this load key.
    pub(crate) fn has(&self, key: &Key) -> bool {
        self.keys.0.contains_key(key)
    }

    /// Whether sync calls wait for this load key.
    pub(crate) fn has_sync(&self, key: &Key) -> bool {
        self.keys.has_sync(key)
    }

    /// The users, with what each has had: whoever has had least first.
    pub(crate) fn line(&self) -> btree_set::Iter<'_, (Had, UserName)> {
        self.line.iter()
    }

    /// The groups of a user: the highest priority first, of the same priority sync calls first, then the oldest.
    pub(crate) fn groups(&self, user: &UserName) -> &[Group] {
        self.users.get(user).map_or(&[], |(_, groups)| groups)
    }

    fn moved(&mut self, user: &UserName, had: Had) {
        if let Some((before, _)) = self.users.get_mut(user) {
            self.line.remove(&(*before, user.clone()));
            self.line.insert((had, user.clone()));
            *before = had;
        }
    }

    /// Returns the group of the offer if it is exhausted and so was removed.
    fn claimed(&mut self, offer: &Offer, exhausted: bool, highest: Option<JobId>) -> Option<Group> {
        let (had, groups) = self.users.get_mut(&offer.user)?;
        let nth = groups.iter().position(|group| group.is_in(offer))?;
        if !exhausted {
            groups[nth].lowest =
                highest.map_or(groups[nth].lowest, |highest| highest.max(groups[nth].lowest));
            return None;
        }
        let group = groups.remove(nth);
        if groups.is_empty() {
            self.line.remove(&(*had, offer.user.clone()));
            self.users.remove(&offer.user);
        }
        self.keys.remove(&group);
        Some(group)
    }
}

impl Keys {
    fn add(&mut self, group: &Group) {
        let waiting = self.0.entry(Key::clone(&group.key)).or_insert_with(|| Waiting {
            groups: 0,
            sync: 0,
            only_user: Some(group.user.clone()),
        });
        waiting.groups += 1;
        waiting.sync += usize::from(group.sync);
        waiting.only_user.take_if(|user| *user != group.user);
    }

    fn remove(&mut self, group: &Group) {
        if let Some(waiting) = self.0.get_mut(&group.key) {
            waiting.groups -= 1;
            waiting.sync -= usize::from(group.sync);
            if waiting.groups == 0 {
                self.0.remove(&group.key);
            }
        }
    }

    fn has_sync(&self, key: &Key) -> bool {
        self.0.get(key).is_some_and(|waiting| waiting.sync > 0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::scheduling::samples::{client, group, id, key};

    const SHORT: &str = "a:latest num_ctx=512";
    const LONG: &str = "a:latest num_ctx=8192";

    fn offer(group: &Group, at_most: i32) -> Offer {
        Offer {
            load_key: Arc::from(group.key.as_str()),
            client: group.client,
            user: group.user.clone(),
            priority: group.priority,
            sync: group.sync,
            lower_bound: group.lowest,
            at_most,
        }
    }

    fn scanned(groups: &[&Group]) -> Backlog {
        let mut backlog = Backlog::default();
        backlog.scanned(groups.iter().map(|group| (*group).clone()).collect(), |_, _| Had::default());
        backlog
    }

    /// All groups of one model, client by client, in the order in which a claim takes jobs of them.
    fn groups(backlog: &Backlog, base: &str) -> Vec<Group> {
        let base = key(base);
        let of_users = |queue: &Queue| -> Vec<Group> {
            queue.line().flat_map(|(_, user)| queue.groups(user)).cloned().collect()
        };
        backlog.clients_of(&base).flat_map(|(_, queue)| of_users(queue)).collect()
    }

    #[test]
    fn a_scan_replaces_what_was_known() {
        let (one, two) = (group("a:latest", 1, 10), group("b:latest", 2, 12));
        let mut backlog = scanned(&[&one]);
        backlog.scanned(vec![two.clone()], |_, _| Had::default());
        assert_eq!(groups(&backlog, "b:latest"), [two]);
        assert_eq!(groups(&backlog, "a:latest"), []);
    }

    #[test]
    fn a_users_groups_of_a_model_come_by_priority_then_sync_then_age() {
        let of = |text, priority, sync, lowest| Group { priority, sync, ..group(text, 1, lowest) };
        let ordered = [
            of(SHORT, 7, false, 9),
            of(LONG, 0, true, 8),
            of(SHORT, 0, false, 3),
            of(LONG, 0, false, 4),
            of(SHORT, -5, true, 1),
        ];
        let mut mixed: Vec<&Group> = ordered.iter().collect();
        mixed.reverse();
        assert_eq!(groups(&scanned(&mixed), "a:latest"), ordered);
    }

    #[test]
    fn the_user_that_has_had_least_stands_in_front() {
        let of = |user: &str| Group { user: user.parse().unwrap(), ..group(SHORT, 1, 1) };
        let (ada, bob) = (of("ada"), of("bob"));
        let mut backlog = scanned(&[&ada, &bob]);
        assert_eq!(groups(&backlog, "a:latest"), [ada.clone(), bob.clone()]);
        backlog.moved(client(1), &ada.user, Had::default().and(2.0, 1.0));
        assert_eq!(groups(&backlog, "a:latest"), [bob.clone(), ada]);
        let least =
            |backlog: &Backlog, of: &str| backlog.least(client(1), |load_key| load_key.as_str() == of);
        assert_eq!((least(&backlog, SHORT), least(&backlog, LONG)), (Some(Had::default()), None));
        backlog.claimed(&key("a:latest"), &[offer(&bob, 1)], 2, &[], backlog.last_scan());
        assert_eq!(least(&backlog, SHORT), Some(Had::default().and(2.0, 1.0)));
        assert!(!backlog.has(client(1), &bob.user));
    }

    #[test]
    fn a_claim_that_was_served_in_full_raises_the_bound() {
        let group = group(SHORT, 1, 10);
        let mut backlog = scanned(&[&group]);
        let brought = [(0, id(10)), (0, id(15))];
        backlog.claimed(&key("a:latest"), &[offer(&group, 2)], 2, &brought, backlog.last_scan());
        assert_eq!(groups(&backlog, "a:latest"), [Group { lowest: id(15), ..group }]);
    }

    #[test]
    fn a_group_that_gave_less_than_it_was_asked_for_is_done_with() {
        let (one, two) = (group(SHORT, 1, 10), group(LONG, 2, 20));
        let mut backlog = scanned(&[&one, &two]);
        let offers = [offer(&one, 4), offer(&two, 4)];
        backlog.claimed(&key("a:latest"), &offers, 8, &[(1, id(20))], backlog.last_scan());
        assert_eq!((backlog.models().count(), backlog.clients().count()), (0, 0));
    }

    #[test]
    fn a_full_claim_says_nothing_of_the_offers_it_did_not_reach() {
        let (one, two, three) = (group(SHORT, 1, 10), group(SHORT, 2, 20), group(SHORT, 3, 30));
        let mut backlog = scanned(&[&one, &two, &three]);
        let offers = [offer(&one, 2), offer(&two, 2), offer(&three, 2)];
        let brought = [(0, id(10)), (1, id(20))];
        backlog.claimed(&key("a:latest"), &offers, 2, &brought, backlog.last_scan());
        assert_eq!(groups(&backlog, "a:latest"), [two, three], "one had a single job; two may have more");
    }

    #[test]
    fn a_job_that_a_scan_found_while_a_claim_was_under_way_is_not_forgotten() {
        let group = group(SHORT, 1, 10);
        let mut backlog = scanned(&[&group]);
        let offered = backlog.last_scan();
        let newer = Group { lowest: id(12), ..group.clone() };
        backlog.scanned(vec![newer.clone()], |_, _| Had::default());
        backlog.claimed(&key("a:latest"), &[offer(&group, 4)], 4, &[(0, id(10))], offered);
        assert_eq!(groups(&backlog, "a:latest"), [newer]);
    }
}
