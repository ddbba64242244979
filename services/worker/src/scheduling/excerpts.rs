//! The ready groups that this host knows. Clients can make groups without end, so a look at everything finds a bounded
//! number of each client's groups, and the next look goes on behind these. A group stays known until a look comes by
//! again.
//!
//! Of a client with very many groups only an excerpt is known at a time: the plan's work at each decision and at each
//! scan grows with what is known. Looks go round within the excerpt. They go on to other groups as soon as some of the
//! excerpt are used up, and leave it for the next one after a while, so that no group stays unknown.
//!
//! Pure.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use foreman_store::{ClientId, FoundGroups, GroupPlace, ReadyGroup};

use super::backlog::Group;

/// The clients share this many groups that may be known, each the same. A scan hands all of them to the plan.
const KNOWN: usize = 20_000;

/// An excerpt ends when it has this many load keys. Each decision looks at all load keys that wait.
const LOAD_KEYS: usize = 500;

/// How long an excerpt lasts while the client has other groups. A model can be loaded in this time, and its quantum
/// begin.
const LASTS: Duration = Duration::from_secs(60);

/// One look goes on with at most this many clients. Its statement compares each of them with each client.
const GO_ON: usize = 100;

#[derive(Debug)]
pub(crate) struct Excerpts {
    of: BTreeMap<ClientId, Excerpt>,
    /// How many groups may be known.
    at_most: usize,
}

/// What is known of one client.
#[derive(Debug)]
struct Excerpt {
    groups: BTreeMap<GroupPlace, Group>,
    /// The excerpt has the groups behind this place.
    begins: GroupPlace,
    /// As far as looks have gone within the excerpt.
    ends: GroupPlace,
    began: Instant,
    /// Where the next look at the client goes on.
    next: GroupPlace,
    looked_at: Instant,
    /// Whether the client has more groups than one look finds.
    is_long: bool,
    /// Whether the next look that finds groups begins another excerpt.
    is_over: bool,
}

/// What one look has found of one client.
#[derive(Default)]
struct Page {
    /// Where the look went on. `None` if it began at the client's first group, because nobody told it otherwise.
    from: Option<GroupPlace>,
    groups: Vec<(GroupPlace, Group)>,
    /// The place behind the last group that was found, if there may be more.
    to: Option<GroupPlace>,
}

impl Excerpts {
    pub(crate) fn new() -> Self {
        Self { of: BTreeMap::new(), at_most: KNOWN }
    }

    /// Where the next look at everything goes on, for the clients with which it does not begin anew.
    pub(crate) fn goes_on(&self) -> Vec<(ClientId, GroupPlace)> {
        let mut long: Vec<_> = self.of.iter().filter(|(_, excerpt)| excerpt.is_long).collect();
        long.sort_by_key(|(_, excerpt)| excerpt.looked_at);
        long.into_iter().take(GO_ON).map(|(client, excerpt)| (*client, excerpt.next.clone())).collect()
    }

    /// Whether some clients have more groups than one look finds.
    pub(crate) fn are_partial(&self) -> bool {
        self.of.values().any(|excerpt| excerpt.is_long)
    }

    /// All known groups.
    pub(crate) fn groups(&self) -> impl Iterator<Item = &Group> {
        self.of.values().flat_map(|excerpt| excerpt.groups.values())
    }

    /// A look at everything, which went on at these places, has found these groups. `read` gives `None` for a group that
    /// is not for this version.
    pub(crate) fn looked(
        &mut self,
        went_on: &[(ClientId, GroupPlace)],
        found: FoundGroups,
        mut read: impl FnMut(ReadyGroup) -> Option<Group>,
        now: Instant,
    ) {
        let mut pages: BTreeMap<ClientId, Page> =
            self.of.keys().map(|client| (*client, Page::default())).collect();
        for (client, place) in went_on {
            pages.entry(*client).or_default().from = Some(place.clone());
        }
        for group in found.groups {
            let (client, place) = (group.client, group.place());
            let page = pages.entry(client).or_default();
            page.to = found.have_more.contains(&client).then(|| place.clone());
            page.groups.extend(read(group).map(|group| (place, group)));
        }
        let at_most = self.at_most / pages.len().max(1);
        for (client, page) in pages {
            let excerpt = self.of.entry(client).or_insert_with(|| Excerpt::new(now));
            // There is a limit to the clients with which a look goes on. The others wait for their turn.
            if page.from.is_some() || !excerpt.is_long {
                excerpt.looked(page, at_most, now);
            }
        }
        self.forget_the_gone();
    }

    /// A look at these known groups alone has found these of them.
    pub(crate) fn looked_at(
        &mut self,
        known: &[ReadyGroup],
        found: Vec<ReadyGroup>,
        mut read: impl FnMut(ReadyGroup) -> Option<Group>,
        now: Instant,
    ) {
        for group in known {
            self.of.get_mut(&group.client).and_then(|excerpt| excerpt.groups.remove(&group.place()));
        }
        for group in found {
            let (client, place) = (group.client, group.place());
            let excerpt = self.of.entry(client).or_insert_with(|| Excerpt::new(now));
            excerpt.groups.extend(read(group).map(|group| (place, group)));
        }
        self.forget_the_gone();
    }

    fn forget_the_gone(&mut self) {
        self.of.retain(|_, excerpt| excerpt.is_long || !excerpt.groups.is_empty());
    }
}

impl Excerpt {
    fn new(now: Instant) -> Self {
        Self {
            groups: BTreeMap::new(),
            begins: GroupPlace::default(),
            ends: GroupPlace::default(),
            began: now,
            next: GroupPlace::default(),
            looked_at: now,
            is_long: false,
            is_over: false,
        }
    }

    fn looked(&mut self, page: Page, at_most: usize, now: Instant) {
        let from = page.from.unwrap_or_default();
        if self.is_over && !page.groups.is_empty() {
            (self.is_over, self.began, self.ends) = (false, now, from.clone());
            self.groups.clear();
        }
        let was_seen = |place: &GroupPlace| *place > from && page.to.as_ref().is_none_or(|to| place <= to);
        self.groups.retain(|place, _| !was_seen(place));
        self.groups.extend(page.groups);
        self.looked_at = now;

        let first = GroupPlace::default();
        let is_old = now.saturating_duration_since(self.began) >= LASTS;
        self.is_long = page.to.is_some() || from != first || self.begins != first;
        match page.to {
            Some(to) if to < self.ends => self.next = to,
            Some(to) if !self.is_full(at_most) => {
                self.ends = to.clone();
                self.next = to;
            }
            Some(to) if is_old => self.end(to),
            // The client has no groups behind these. Begin anew with its first ones.
            None if self.begins != first && (is_old || self.groups.is_empty()) => self.end(first),
            _ => self.next = self.begins.clone(),
        }
    }

    fn is_full(&self, at_most: usize) -> bool {
        let load_keys = || self.groups.keys().map(|place| &place.load_key).collect::<HashSet<_>>();
        self.groups.len() >= at_most || load_keys().len() >= LOAD_KEYS
    }

    /// The next excerpt begins at this place. Until a look has found its first groups, those of this one stay known.
    fn end(&mut self, next: GroupPlace) {
        self.begins = next.clone();
        self.next = next;
        self.is_over = true;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::ops::Bound::{Excluded, Unbounded};
    use std::ops::Range;

    use super::*;
    use crate::scheduling::key;
    use crate::scheduling::samples::{client, id};

    /// How many groups of a client the looks of these tests find.
    const PAGE: usize = 200;

    /// The groups in Postgres.
    type Stored = BTreeSet<(ClientId, GroupPlace)>;

    fn place(user: usize, load_key: &str) -> GroupPlace {
        GroupPlace {
            user: format!("user {user:06}").parse().unwrap(),
            load_key: load_key.to_owned(),
            ..GroupPlace::default()
        }
    }

    /// Groups of a client with as many users.
    fn users(number: u128, users: Range<usize>) -> Stored {
        users.map(|user| (client(number), place(user, "a:latest"))).collect()
    }

    fn found_group((client, place): &(ClientId, GroupPlace)) -> ReadyGroup {
        let GroupPlace { user, load_key, priority, sync } = place.clone();
        ReadyGroup { client: *client, user, load_key, priority, sync, lowest: id(1) }
    }

    fn read(group: ReadyGroup) -> Option<Group> {
        let ReadyGroup { load_key, client, user, priority, sync, lowest } = group;
        Some(Group { key: key::read(&load_key)?, client, user, priority, sync, lowest })
    }

    /// Looks as the store does.
    fn look(excerpts: &mut Excerpts, stored: &Stored, now: Instant) {
        let went_on = excerpts.goes_on();
        let mut found = FoundGroups { groups: Vec::new(), have_more: BTreeSet::new() };
        for client in (1..=2).map(client) {
            let from = went_on.iter().find(|(one, _)| *one == client).map(|(_, place)| place.clone());
            let behind = (Excluded((client, from.unwrap_or_default())), Unbounded);
            let its_own = stored.range(behind).take_while(|(one, _)| *one == client);
            let page: Vec<_> = its_own.take(PAGE).map(found_group).collect();
            if page.len() == PAGE {
                found.have_more.insert(client);
            }
            found.groups.extend(page);
        }
        excerpts.looked(&went_on, found, read, now);
    }

    fn known(excerpts: &Excerpts) -> Stored {
        let name = |group: &Group| {
            let (user, load_key) = (group.user.clone(), group.key.as_str().to_owned());
            (group.client, GroupPlace { user, load_key, priority: group.priority, sync: group.sync })
        };
        excerpts.groups().map(name).collect()
    }

    #[test]
    fn all_groups_are_known_after_some_looks_and_those_of_another_client_at_once() {
        let (mut excerpts, now) = (Excerpts::new(), Instant::now());
        let mut stored: Stored = users(1, 0..2 * PAGE + 1);
        stored.extend(users(2, 0..3));
        look(&mut excerpts, &stored, now);
        assert_eq!(known(&excerpts).len(), PAGE + 3);
        look(&mut excerpts, &stored, now);
        look(&mut excerpts, &stored, now);
        assert_eq!(known(&excerpts), stored);

        // The next round finds what is new, and what is gone.
        stored.extend(users(1, PAGE * 3..PAGE * 3 + 1));
        stored.remove(&(client(1), place(5, "a:latest")));
        stored.extend(users(2, 3..4));
        look(&mut excerpts, &stored, now);
        assert!(known(&excerpts).contains(&(client(2), place(3, "a:latest"))));
        (0..2).for_each(|_| look(&mut excerpts, &stored, now));
        assert_eq!(known(&excerpts), stored);

        stored.retain(|(one, _)| *one == client(2));
        (0..3).for_each(|_| look(&mut excerpts, &stored, now));
        assert_eq!(known(&excerpts), stored);
        assert!(!excerpts.are_partial());
    }

    /// A client with these groups has them looked at for some minutes. Returns for how many seconds each was known.
    fn seconds_known(stored: &Stored, at_most: usize) -> BTreeMap<(ClientId, GroupPlace), u64> {
        let (mut excerpts, start) = (Excerpts { at_most, ..Excerpts::new() }, Instant::now());
        let mut seconds = BTreeMap::new();
        for second in 0..6 * LASTS.as_secs() {
            (0..2).for_each(|_| look(&mut excerpts, stored, start + Duration::from_secs(second)));
            let known = known(&excerpts);
            assert!(known.len() < at_most + PAGE, "{} are known", known.len());
            known.into_iter().for_each(|group| *seconds.entry(group).or_default() += 1);
        }
        seconds
    }

    #[test]
    fn of_groups_without_end_few_are_known_at_a_time_and_each_for_a_while() {
        let stored = users(1, 0..5_000);
        let seconds = seconds_known(&stored, 2_000);
        assert_eq!(seconds.len(), stored.len());
        let shortest = seconds.values().min().unwrap();
        assert!(*shortest > LASTS.as_secs() / 2, "one was known for {shortest} s only");
    }

    #[test]
    fn of_load_keys_without_end_few_are_known_at_a_time_and_each_for_a_while() {
        let load_key = |number| format!("a:latest num_batch={number}");
        let stored: Stored = (0..1_500).map(|number| (client(1), place(1, &load_key(number)))).collect();
        let seconds = seconds_known(&stored, LOAD_KEYS);
        assert_eq!(seconds.len(), stored.len());
        assert!(*seconds.values().min().unwrap() > LASTS.as_secs() / 2);
        assert_eq!(seconds_known(&stored, KNOWN), seconds, "however many groups might be known");
    }

    #[test]
    fn as_groups_are_used_up_others_come_at_once() {
        let (mut excerpts, now) = (Excerpts { at_most: 1_000, ..Excerpts::new() }, Instant::now());
        let mut stored = users(1, 0..5_000);
        let mut looks = 0;
        while !stored.is_empty() {
            look(&mut excerpts, &stored, now);
            // Claims of groups that are known and gone already bring nothing.
            let claimed: Vec<_> = known(&excerpts).intersection(&stored).take(PAGE / 2).cloned().collect();
            claimed.iter().for_each(|group| _ = stored.remove(group));
            looks += 1;
            assert!(looks < 200, "{} wait after {looks} looks", stored.len());
        }
    }

    #[test]
    fn a_look_at_known_groups_tells_of_these_alone() {
        let (mut excerpts, now) = (Excerpts::new(), Instant::now());
        let stored = users(1, 0..4);
        look(&mut excerpts, &stored, now);
        let known_before: Vec<_> = stored.iter().take(2).map(found_group).collect();
        excerpts.looked_at(&known_before, known_before[1..].to_vec(), read, now);
        assert_eq!(known(&excerpts), stored.into_iter().skip(1).collect());
    }
}
