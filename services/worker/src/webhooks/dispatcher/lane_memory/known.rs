//! The lanes that are known. Those that a look may visit are found without going through the others: there may be thousands, and
//! both paces wait for whoever goes through them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};
use std::time::Instant;

use chrono::{DateTime, Utc};
use foreman_store::{LaneHead, LaneId, LaneSearch};

use crate::webhooks::dispatcher::destination::Destinations;
use crate::webhooks::dispatcher::pace::{Pace, PerPace};
use crate::webhooks::dispatcher::pool::CountedLane;

#[derive(Debug, Default)]
pub(super) struct KnownLanes {
    all: BTreeMap<LaneId, Remembered>,
    /// Those that a look of each pace may visit, with the time from which on.
    to_visit: PerPace<BTreeSet<(DateTime<Utc>, LaneId)>>,
}

#[derive(Debug)]
pub(in super::super) struct Remembered {
    pub(super) lane: CountedLane,
    /// As in [`LaneHead`].
    origin: Option<String>,
    /// None of its deliveries is due before this.
    pub(super) since: DateTime<Utc>,
    /// When its first delivery may be claimed, as far as is known. What is due stays due until a visit finds nothing.
    pub(super) due_at: Option<DateTime<Utc>>,
    /// When we last heard something of it. A look that began before that knows less, and a claim too.
    pub(super) told_at: Instant,
    /// When it last had a delivery.
    pub(super) busy: Instant,
    /// It is not proven, and its one seat is taken. Word of it comes once that is free.
    pub(super) is_full: bool,
    /// The last pass in which a claim found nothing more here. A webhook that is due may wait for an earlier one of its
    /// job, which another dispatcher sends.
    pub(super) empty_in: u64,
}

impl KnownLanes {
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn get(&self, lane: LaneId) -> Option<&Remembered> {
        self.all.get(&lane)
    }

    /// Changes what is remembered of a lane, if it is known.
    pub(super) fn change<T>(&mut self, lane: LaneId, change: impl FnOnce(&mut Remembered) -> T) -> Option<T> {
        let remembered = self.all.get_mut(&lane)?;
        let before = remembered.visit();
        let changed = change(remembered);
        let after = remembered.visit();
        if before != after {
            if let Some((pace, at)) = before {
                self.to_visit[pace].remove(&(at, lane));
            }
            if let Some((pace, at)) = after {
                self.to_visit[pace].insert((at, lane));
            }
        }
        Some(changed)
    }

    /// Makes this lane known, if it is not.
    pub(super) fn add(&mut self, lane: &CountedLane, now: Instant) {
        self.all.entry(lane.lane).or_insert_with(|| Remembered::new(lane.clone(), now));
    }

    /// Those between these two, in the order of their ids.
    pub(super) fn between(
        &self,
        after: LaneId,
        before: LaneId,
    ) -> impl Iterator<Item = (LaneId, &Remembered)> {
        let above = self.all.range((Excluded(after), Unbounded));
        above.map(|(lane, remembered)| (*lane, remembered)).take_while(move |(lane, _)| *lane < before)
    }

    /// Those that a look of this pace may visit at `present`.
    pub(super) fn to_visit(&self, pace: Pace, present: DateTime<Utc>) -> impl Iterator<Item = &Remembered> {
        let (_, last) = LaneSearch::ENDS;
        self.to_visit[pace].range(..=(present, last)).map(|(_, lane)| &self.all[lane])
    }

    /// When a look of this pace may visit one more.
    pub(super) fn next_visit(&self, pace: Pace, present: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let (_, last) = LaneSearch::ENDS;
        self.to_visit[pace].range((Excluded((present, last)), Unbounded)).next().map(|(at, _)| *at)
    }

    /// Whether any has something due, with room for it or not. Goes through all of them.
    pub(super) fn have_due(&self, present: DateTime<Utc>) -> bool {
        self.all.values().any(|remembered| remembered.is_due(present))
    }

    /// Goes through all of them.
    pub(super) fn forget(&mut self, is_forgotten: impl Fn(&Remembered) -> bool) {
        let forgotten = self.all.extract_if(.., |_, remembered| is_forgotten(remembered));
        for (lane, remembered) in forgotten {
            if let Some((pace, at)) = remembered.visit() {
                self.to_visit[pace].remove(&(at, lane));
            }
        }
    }
}

impl Remembered {
    fn new(lane: CountedLane, now: Instant) -> Self {
        Self {
            lane,
            origin: None,
            since: DateTime::UNIX_EPOCH,
            due_at: None,
            told_at: now,
            busy: now,
            is_full: false,
            empty_in: 0,
        }
    }

    /// Learns what a look found that ended at `now`.
    pub(super) fn learn(&mut self, head: &LaneHead, lane: CountedLane, now: Instant) {
        let due_at = (!head.is_disabled).then(|| head.claimable_at());
        self.due_at = self.due_at.into_iter().chain(due_at).min();
        self.since = self.since.min(head.first_at);
        if Pace::of(lane.health) != self.pace() {
            (self.empty_in, self.is_full) = (0, false);
        }
        (self.lane, self.told_at, self.busy) = (lane, now, now);
        self.origin.clone_from(&head.origin);
    }

    /// Whose lane it is.
    pub(super) fn pace(&self) -> Pace {
        Pace::of(self.lane.health)
    }

    pub(super) fn is_due(&self, present: DateTime<Utc>) -> bool {
        self.due_at.is_some_and(|due_at| due_at <= present)
    }

    /// What its attempts are counted under.
    pub(in super::super) fn counted(&self, destinations: &Destinations) -> CountedLane {
        let destination = self.origin.as_ref().and_then(|origin| destinations.of(origin));
        CountedLane { destination, ..self.lane.clone() }
    }

    /// Whose looks may visit it, and from when on.
    fn visit(&self) -> Option<(Pace, DateTime<Utc>)> {
        self.due_at.filter(|_| !self.is_full).map(|at| (self.pace(), at))
    }
}
