//! What the scan remembers of groups, so that it can skip the entries of jobs long gone: while somebody holds an old
//! snapshot (a backup, say), Postgres cannot clean those away, and every look at everything would walk over all.
//!
//! It only hastens, and is used only while looks at everything are slow. Such a look finds again what a look with the memory
//! misses: jobs of groups that are not remembered, and jobs that came back with an id below a group's bound.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use foreman_store::{ClientId, JobId, ReadyGroup};

use crate::look_at_all::LookAtAll;

/// Looks at everything that take less than this go on without the memory. On a healthy database even one that finds 300 groups
/// takes two or three milliseconds.
const SLOW: Duration = Duration::from_millis(20);

/// A job of a group that is not remembered waits no longer than this and one look at everything.
const LOOK_AT_ALL_AFTER: Duration = Duration::from_secs(5);

/// A group that had nothing for so long is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(600);

/// Past so many remembered groups those that have nothing are forgotten: each costs every look a descent of the index.
const MOST_GROUPS: usize = 2_000;

#[derive(Debug)]
pub(crate) struct GroupMemory {
    /// By load key, client and priority.
    groups: BTreeMap<(String, ClientId, i16), Remembered>,
    look_at_all: LookAtAll,
    /// How long the last look at everything took.
    last_took: Duration,
}

#[derive(Debug)]
struct Remembered {
    /// No ready job has a smaller id, as far as is known.
    lowest: JobId,
    busy: Instant,
}

impl GroupMemory {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            groups: BTreeMap::new(),
            look_at_all: LookAtAll::new(now, Duration::ZERO).at_latest(LOOK_AT_ALL_AFTER),
            last_took: Duration::ZERO,
        }
    }

    /// The groups to look at, at `now`; `None` if everything is to be looked at.
    pub(crate) fn known(&self, now: Instant) -> Option<Vec<ReadyGroup>> {
        let known = |(group, remembered): (&(String, ClientId, i16), &Remembered)| ReadyGroup {
            load_key: group.0.clone(),
            client: group.1,
            priority: group.2,
            lowest: remembered.lowest,
        };
        (!self.look_at_all.is_due(now)).then(|| self.groups.iter().map(known).collect())
    }

    /// How long until everything is to be looked at.
    pub(crate) fn look_at_all_in(&self, now: Instant) -> Duration {
        self.look_at_all.due_in(now)
    }

    /// Learns from a look that began at `began` and ended at `ended`. `floor` is the lowest id that a job not yet committed
    /// could have when it began.
    pub(crate) fn learn(&mut self, found: &[ReadyGroup], floor: JobId, began: Instant, ended: Instant) {
        if self.look_at_all.is_due(began) {
            self.looked_at_all(began, ended);
        }
        for remembered in self.groups.values_mut() {
            remembered.lowest = floor;
        }
        for ReadyGroup { load_key, client, priority, lowest } in found {
            let remembered = Remembered { lowest: floor.min(*lowest), busy: ended };
            self.groups.insert((load_key.clone(), *client, *priority), remembered);
        }
        let forget_after = if self.groups.len() > MOST_GROUPS { Duration::ZERO } else { FORGET_AFTER };
        self.groups.retain(|_, remembered| ended <= remembered.busy + forget_after);
    }

    /// One slow look may be chance, a lock or a busy machine. Two in a row are not.
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

    use chrono::DateTime;
    use foreman_store::ulid_floor;

    use super::*;

    /// Of one client throughout.
    fn group(load_key: &str, lowest: i64) -> ReadyGroup {
        static CLIENT: LazyLock<ClientId> = LazyLock::new(ClientId::generate);
        ReadyGroup { load_key: load_key.to_owned(), client: *CLIENT, priority: 0, lowest: id(lowest) }
    }

    fn id(number: i64) -> JobId {
        ulid_floor(DateTime::from_timestamp_millis(number).unwrap())
    }

    #[test]
    fn the_memory_is_used_while_looks_at_everything_are_slow() {
        let mut now = Instant::now();
        let mut memory = GroupMemory::new(now);
        let mut pause_after = |took: Duration| {
            let began = now;
            now += took;
            memory.learn(&[group("a", 5)], id(10), began, now);
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

    /// A memory that is in use, and when it is.
    fn slow(found: &[ReadyGroup]) -> (GroupMemory, Instant) {
        let began = Instant::now();
        let ended = began + SLOW;
        let mut memory = GroupMemory::new(began);
        memory.learn(found, id(10), began, ended);
        memory.learn(found, id(10), ended, ended + SLOW);
        (memory, ended + SLOW)
    }

    #[test]
    fn a_bound_passes_neither_a_ready_job_nor_one_that_can_still_come() {
        let (mut memory, now) = slow(&[group("backlog", 5), group("fresh", 15), group("emptied", 5)]);
        memory.learn(&[group("backlog", 6), group("fresh", 25)], id(20), now, now);
        let known = [group("backlog", 6), group("emptied", 20), group("fresh", 20)];
        assert_eq!(memory.known(now), Some(known.to_vec()));
    }

    #[test]
    fn an_emptied_place_is_forgotten_in_time_or_when_there_are_many() {
        let (mut memory, mut now) = slow(&[group("emptied", 5), group("busy", 5)]);
        let mut known_after = |found: &[ReadyGroup], pause: Duration| {
            let began = now + pause;
            now = began + SLOW;
            memory.learn(found, id(10), began, now);
            memory.known(now).unwrap().len()
        };
        assert_eq!(known_after(&[group("busy", 5)], FORGET_AFTER - SLOW), 2);
        assert_eq!(known_after(&[group("busy", 5)], Duration::from_secs(6)), 1);

        let many: Vec<_> = (0..MOST_GROUPS).map(|number| group(&number.to_string(), 5)).collect();
        assert_eq!(known_after(&many, Duration::from_secs(6)), MOST_GROUPS);
    }
}
