//! What this dispatcher remembers of the lanes. With it a look costs as much as there is news, and not as much as there are
//! lanes: a client may have thousands of them.
//!
//! A look visits the known lanes that have something due and room for it, and learns of new deliveries by their ids. What
//! neither of the two tells is found by searching through all lanes, a part in each look. A visit also skips the index entries
//! of deliveries long gone, which Postgres keeps while somebody holds an old snapshot (a backup, say).
//!
//! This is for speed only. What a look misses because of it is found by a later search, soon after.

mod visits;

use std::collections::{BTreeMap, HashSet};
use std::ops::Bound::{Excluded, Unbounded};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use foreman_runtime::background::Round;
use foreman_store::{DeliveryId, KnownLane, LaneHead, LaneId, LaneSearch, Lanes};

use super::pool::{CountedLane, Pool};
use crate::look_at_all::LookAtAll;
use visits::Visits;

/// How far the memory stays behind the present. Whatever transaction made a delivery this long ago has committed.
const BEHIND: TimeDelta = TimeDelta::seconds(2);

/// Between two searches without the memory, unless they are slow.
const LOOK_AT_ALL: Duration = Duration::from_secs(1);

/// A lane without deliveries for this long is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(600);

/// A search goes through this many known lanes per look. Each costs Postgres some 30 µs, and everybody waits for a look. With no
/// more lanes than these, each look searches through all of them.
const PART: usize = 32;

/// Parts of a search take at most one part in this many of the time.
const SHARE: u32 = 10;

/// Between the end of a search and the begin of the next one.
const SEARCH_AGAIN: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(super) struct LaneMemory {
    lanes: BTreeMap<LaneId, Remembered>,
    /// Deliveries with lower ids are no news.
    made_since: DeliveryId,
    /// The search that is under way.
    search: Option<Search>,
    /// When the next search begins, or the next part of this one.
    next_part: Instant,
    look_at_all: LookAtAll,
    /// The last look left out lanes that have something due, and room for it.
    left_some_out: bool,
    /// The number of this pass. A pass is the rounds between two waits of the dispatcher.
    pass: u64,
}

#[derive(Debug)]
struct Remembered {
    lane: CountedLane,
    /// None of its deliveries is due before this.
    since: DateTime<Utc>,
    /// When its first delivery may be claimed, as far as is known. What is due stays due until a visit finds nothing.
    due_at: Option<DateTime<Utc>>,
    busy: Instant,
    /// The last pass in which a claim found nothing more here. A webhook that is due may wait for an earlier one of its
    /// job, which another dispatcher sends.
    empty_in: u64,
}

#[derive(Debug)]
struct Search {
    began: Instant,
    /// The next part begins after this lane.
    after: LaneId,
    /// It visits lanes from their beginning, whatever is remembered.
    looks_at_all: bool,
}

impl LaneMemory {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            lanes: BTreeMap::new(),
            made_since: DeliveryId::MAX,
            search: None,
            next_part: now,
            look_at_all: LookAtAll::new(now, LOOK_AT_ALL),
            left_some_out: false,
            pass: 1,
        }
    }

    /// What a look at `now` visits; `present` is Postgres' time.
    pub(super) fn search(
        &mut self,
        now: Instant,
        present: DateTime<Utc>,
        seats: &Pool,
        freed: &HashSet<LaneId>,
    ) -> LaneSearch {
        for lane in freed {
            // It may have more, or its next attempt or its gate have got another time.
            if let Some(remembered) = self.lanes.get_mut(lane) {
                (remembered.due_at, remembered.empty_in) = (Some(DateTime::UNIX_EPOCH), 0);
            }
        }
        let (after, before) = self.next_part(now);
        let looks_at_all = self.search.as_ref().is_some_and(|search| search.looks_at_all);
        let mut known = Vec::new();
        let mut visits = Visits::new(seats);
        // Chance decides whose turn it is: no lane always comes last and goes without.
        let first = rand::random_range(0..self.lanes.len().max(1));
        for (&id, remembered) in self.lanes.iter().cycle().skip(first).take(self.lanes.len()) {
            if id > after && id < before {
                let since = if looks_at_all { DateTime::UNIX_EPOCH } else { remembered.since };
                known.push(KnownLane { lane: id, since });
            } else if remembered.is_due(present) && remembered.empty_in < self.pass {
                visits.add(remembered);
            }
        }
        let (visits, left_some_out) = visits.chosen();
        self.left_some_out = left_some_out;
        known.extend(visits.into_iter().map(|lane| KnownLane { lane, since: self.since(lane) }));
        LaneSearch { known, made_since: self.made_since, after, before }
    }

    /// Leaves those of these lanes from which the next claim takes. The others follow with the next look.
    pub(super) fn choose(&mut self, due: &mut Vec<LaneHead>, seats: &Pool) {
        let mut chosen = Visits::new(seats);
        due.iter().filter_map(|head| self.lanes.get(&head.lane)).for_each(|lane| chosen.add(lane));
        let (chosen, left_some_out) = chosen.chosen();
        self.left_some_out |= left_some_out;
        let chosen: HashSet<LaneId> = chosen.into_iter().collect();
        due.retain(|head| chosen.contains(&head.lane));
    }

    /// A claim found no more in these lanes than it took.
    pub(super) fn are_empty(&mut self, lanes: &[LaneId]) {
        for lane in lanes {
            if let Some(remembered) = self.lanes.get_mut(lane) {
                remembered.empty_in = self.pass;
            }
        }
    }

    /// The dispatcher waits for news now. After that the lanes that were empty are worth a visit again.
    pub(super) fn pass_ends(&mut self) {
        self.pass += 1;
    }

    /// The part of all lanes that a look at `now` searches through.
    fn next_part(&mut self, now: Instant) -> (LaneId, LaneId) {
        let (first, last) = LaneSearch::ENDS;
        if now < self.next_part && self.lanes.len() > PART {
            return (last, last);
        }
        let looks_at_all = self.look_at_all.is_due(now);
        let search = self.search.get_or_insert(Search { began: now, after: first, looks_at_all });
        let before = self.lanes.range((Excluded(search.after), Unbounded)).nth(PART);
        (search.after, before.map_or(last, |(lane, _)| *lane))
    }

    /// Learns from this look, which began at `began` and ended now.
    pub(super) fn learn(&mut self, look: &LaneSearch, lanes: &Lanes, began: Instant, ended: Instant) {
        self.made_since = lanes.made_since;
        self.left_some_out |= lanes.has_more_new;
        let behind = lanes.now - BEHIND;
        for known in &look.known {
            if let Some(remembered) = self.lanes.get_mut(&known.lane) {
                (remembered.since, remembered.due_at) = (behind, None);
            }
        }
        for head in &lanes.heads {
            let lane =
                CountedLane { lane: head.lane, client: head.client, destination: None, health: head.health };
            let new = Remembered {
                lane: lane.clone(),
                since: DateTime::UNIX_EPOCH,
                due_at: None,
                busy: ended,
                empty_in: 0,
            };
            let remembered = self.lanes.entry(head.lane).or_insert(new);
            let due_at = (!head.is_disabled).then(|| head.claimable_at());
            remembered.due_at = remembered.due_at.into_iter().chain(due_at).min();
            remembered.since = remembered.since.min(head.first_at);
            (remembered.lane, remembered.busy) = (lane, ended);
        }
        self.lanes.retain(|_, remembered| ended < remembered.busy + FORGET_AFTER);
        self.end_part(look, lanes, began, ended);
    }

    fn end_part(&mut self, look: &LaneSearch, lanes: &Lanes, began: Instant, ended: Instant) {
        let (_, last) = LaneSearch::ENDS;
        let Some(search) = self.search.as_mut().filter(|_| look.after < last) else { return };
        self.next_part = ended + (ended - began) * (SHARE - 1);
        // What was found is known now. So a part that was cut is searched again from there on.
        if lanes.is_cut {
            return;
        }
        if look.before < last {
            let passed = self.lanes.range(..look.before).next_back();
            search.after = passed.map_or(search.after, |(lane, _)| *lane);
        } else {
            self.look_at_all.looked(search.began, ended);
            self.search = None;
            self.next_part = self.next_part.max(ended + SEARCH_AGAIN);
        }
    }

    /// When the next look is due, because something comes due by then or was left out by the last look.
    pub(super) fn next_look(&self, now: Instant, present: DateTime<Utc>) -> Round {
        if self.left_some_out {
            return Round::More;
        }
        let later = self.lanes.values().filter_map(|remembered| remembered.due_at).filter(|at| *at > present);
        let later = later.min().map(|at| now + (at - present).to_std().unwrap_or_default());
        let next = later.into_iter().chain(self.search.as_ref().map(|_| self.next_part)).min();
        next.map_or(Round::Idle, |moment| Round::Until(moment.into()))
    }

    /// Whether a lane has something due, with room for it or not.
    pub(super) fn has_due(&self, present: DateTime<Utc>) -> bool {
        self.lanes.values().any(|remembered| remembered.is_due(present))
    }

    /// The moment from which on to claim in a lane.
    pub(super) fn since(&self, lane: LaneId) -> DateTime<Utc> {
        self.lanes.get(&lane).map_or(DateTime::UNIX_EPOCH, |remembered| remembered.since)
    }
}

impl Remembered {
    fn is_due(&self, present: DateTime<Utc>) -> bool {
        self.due_at.is_some_and(|due_at| due_at <= present)
    }
}

#[cfg(test)]
mod tests;
