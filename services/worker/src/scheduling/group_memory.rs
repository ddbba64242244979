//! The scan's memory of groups. While somebody holds an old snapshot (a backup, say), Postgres cannot remove the
//! index entries of jobs long gone, and each look at everything walks over all of them. A look with the memory starts
//! at each remembered group's lowest id instead, and so skips those entries.
//!
//! The memory only saves time, and is used only while looks at everything are slow. It may miss jobs of groups that
//! it does not know, and jobs that came back with an id below their group's bound. The next look at everything finds
//! those. While very many groups wait, a look with the memory would cost as much as one at everything, so there is none.
//! Where one look at everything does not find all groups, the memory has only those that the last look found.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use foreman_store::{ClientId, JobId, ReadyGroup, UserName};

use crate::look_at_all::LookAtAll;

/// A look at everything that takes at least this long is slow. On a healthy database a look that finds 300 groups
/// takes two or three milliseconds.
const SLOW: Duration = Duration::from_millis(20);

/// The longest time between two looks at everything. A job that the memory misses waits for this time and one look at
/// most.
const LOOK_AT_ALL_AFTER: Duration = Duration::from_secs(5);

/// Forget a group that had no ready job for this long.
const FORGET_AFTER: Duration = Duration::from_secs(600);

/// With more groups than this, forget all that have no ready job now, and make no look with the memory: each remembered
/// group costs it one descent of the index.
const MAX_GROUPS: usize = 2_000;

#[derive(Debug)]
pub(crate) struct GroupMemory {
    groups: BTreeMap<GroupName, Remembered>,
    look_at_all: LookAtAll,
    /// How long the last look at everything took.
    last_took: Duration,
}

/// Load key, client, user, priority, and whether the jobs are sync calls.
type GroupName = (String, ClientId, UserName, i16, bool);

#[derive(Debug)]
struct Remembered {
    /// The lowest id that a ready job of this group may have, as far as is known.
    lowest: JobId,
    /// When a look last found a ready job of this group.
    last_seen: Instant,
}

impl GroupMemory {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            groups: BTreeMap::new(),
            look_at_all: LookAtAll::new(now, Duration::ZERO).at_latest(LOOK_AT_ALL_AFTER),
            last_took: Duration::ZERO,
        }
    }

    /// The groups to look at. `None` if it is time to look at everything.
    pub(crate) fn known(&self, now: Instant) -> Option<Vec<ReadyGroup>> {
        let known = |(group, remembered): (&GroupName, &Remembered)| ReadyGroup {
            load_key: group.0.clone(),
            client: group.1,
            user: group.2.clone(),
            priority: group.3,
            sync: group.4,
            lowest: remembered.lowest,
        };
        (!self.look_at_all.is_due(now)).then(|| self.groups.iter().map(known).collect())
    }

    /// How long until the next look at everything is due.
    pub(crate) fn look_at_all_in(&self, now: Instant) -> Duration {
        self.look_at_all.due_in(now)
    }

    /// Whether there are so many groups that only looks at everything are worth their cost.
    pub(crate) fn has_too_many(&self) -> bool {
        self.groups.len() > MAX_GROUPS
    }

    /// Makes the next look one at everything.
    pub(crate) fn look_at_all_next(&mut self, now: Instant) {
        self.look_at_all.make_due(now);
    }

    /// Learns what a look has found. `lowest_uncommitted` is the lowest id that a job not yet committed could have
    /// when the look began. `is_partial` tells whether it left groups out that may be remembered: they are forgotten,
    /// because nobody knows their lowest ids any more.
    pub(crate) fn learn(
        &mut self,
        found: &[ReadyGroup],
        is_partial: bool,
        lowest_uncommitted: JobId,
        began: Instant,
        ended: Instant,
    ) {
        if self.look_at_all.is_due(began) {
            self.looked_at_all(began, ended);
        }
        for remembered in self.groups.values_mut() {
            remembered.lowest = lowest_uncommitted;
        }
        for ReadyGroup { load_key, client, user, priority, sync, lowest } in found {
            let remembered = Remembered { lowest: lowest_uncommitted.min(*lowest), last_seen: ended };
            self.groups.insert((load_key.clone(), *client, user.clone(), *priority, *sync), remembered);
        }
        let forget_now = is_partial || self.groups.len() > MAX_GROUPS;
        let forget_after = if forget_now { Duration::ZERO } else { FORGET_AFTER };
        self.groups.retain(|_, remembered| ended <= remembered.last_seen + forget_after);
    }

    /// Takes the shorter of the last two looks as the usual time. A lock or a busy machine can make one look slow by
    /// chance, but rarely two in a row.
    fn looked_at_all(&mut self, began: Instant, ended: Instant) {
        let took = ended - began;
        let usual = took.min(self.last_took);
        self.last_took = took;
        if usual >= SLOW {
            self.look_at_all.looked(ended - usual, ended);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;
    use crate::scheduling::samples::id;

    /// All groups have the same client.
    fn group(load_key: &str, lowest: i64) -> ReadyGroup {
        static CLIENT: LazyLock<ClientId> = LazyLock::new(ClientId::generate);
        ReadyGroup {
            load_key: load_key.to_owned(),
            client: *CLIENT,
            user: UserName::default(),
            priority: 0,
            sync: false,
            lowest: id(lowest),
        }
    }

    #[test]
    fn the_memory_is_used_while_looks_at_everything_are_slow() {
        let mut now = Instant::now();
        let mut memory = GroupMemory::new(now);
        let mut pause_after = |took: Duration| {
            let began = now;
            now += took;
            memory.learn(&[group("a", 5)], false, id(10), began, now);
            let pause = memory.look_at_all_in(now);
            assert_eq!(memory.known(now), (!pause.is_zero()).then(|| vec![group("a", 5)]));
            now += pause;
            assert_eq!(memory.known(now), None);
            pause
        };
        assert_eq!(pause_after(SLOW / 2), Duration::ZERO);
        assert_eq!(pause_after(3 * SLOW), Duration::ZERO, "by chance, it may be");
        assert_eq!(pause_after(SLOW), 20 * SLOW);
        assert_eq!(pause_after(2 * SLOW), 20 * SLOW);
        assert_eq!(pause_after(100 * SLOW), 40 * SLOW);
        assert_eq!(pause_after(100 * SLOW), LOOK_AT_ALL_AFTER);
        assert_eq!(pause_after(SLOW / 2), Duration::ZERO, "the snapshot is gone");
    }

    /// A memory after two slow looks, so that it is in use, and the time by then.
    fn slow(found: &[ReadyGroup]) -> (GroupMemory, Instant) {
        let began = Instant::now();
        let ended = began + SLOW;
        let mut memory = GroupMemory::new(began);
        memory.learn(found, false, id(10), began, ended);
        memory.learn(found, false, id(10), ended, ended + SLOW);
        (memory, ended + SLOW)
    }

    #[test]
    fn a_bound_passes_neither_a_ready_job_nor_one_that_can_still_come() {
        let (mut memory, now) = slow(&[group("backlog", 5), group("fresh", 15), group("emptied", 5)]);
        memory.learn(&[group("backlog", 6), group("fresh", 25)], false, id(20), now, now);
        let known = [group("backlog", 6), group("emptied", 20), group("fresh", 20)];
        assert_eq!(memory.known(now), Some(known.to_vec()));
    }

    #[test]
    fn an_emptied_group_is_forgotten_in_time_or_when_there_are_many() {
        let (mut memory, mut now) = slow(&[group("emptied", 5), group("busy", 5)]);
        let mut known_after = |found: &[ReadyGroup], pause: Duration| {
            let began = now + pause;
            now = began + SLOW;
            memory.learn(found, false, id(10), began, now);
            memory.known(now).unwrap().len()
        };
        assert_eq!(known_after(&[group("busy", 5)], FORGET_AFTER - SLOW), 2);
        assert_eq!(known_after(&[group("busy", 5)], Duration::from_secs(6)), 1);

        let many: Vec<_> = (0..MAX_GROUPS).map(|number| group(&number.to_string(), 5)).collect();
        assert_eq!(known_after(&many, Duration::from_secs(6)), MAX_GROUPS);
    }

    #[test]
    fn with_very_many_groups_everything_is_looked_at_or_nothing() {
        let many: Vec<_> = (0..=MAX_GROUPS).map(|number| group(&number.to_string(), 5)).collect();
        let (mut memory, now) = slow(&many);
        assert!(memory.has_too_many() && memory.look_at_all_in(now) == 20 * SLOW);
        memory.look_at_all_next(now);
        assert_eq!((memory.look_at_all_in(now), memory.known(now)), (Duration::ZERO, None));
        memory.learn(&many[1..], false, id(10), now, now + SLOW);
        assert!(!memory.has_too_many() && memory.look_at_all_in(now + SLOW) == 20 * SLOW);
    }
}
