//! What this dispatcher remembers of the lanes. With it a look costs as much as there is news, and not as much as there are
//! lanes: a client may have thousands of them.
//!
//! A look visits the known lanes that have something due and room for it, each [pace](Pace) its own. The prompt one also learns of
//! new deliveries by their ids. What none of this tells is found by searching through all lanes, which the patient one does
//! a part at a time. A visit also skips the index entries of deliveries long gone, which Postgres keeps while somebody holds
//! an old snapshot (a backup, say).
//!
//! This is for speed only. What a look misses because of it is found by a later search, soon after.

mod known;
mod visits;

use std::collections::{HashMap, HashSet, VecDeque};
use std::mem;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use foreman_runtime::background::Round;
use foreman_store::{DeliveryId, KnownLane, LaneHead, LaneId, LaneSearch, Lanes};

use super::pace::{Pace, PerPace};
use super::pool::{CountedLane, Pool};
use crate::look_at_all::LookAtAll;
use known::{KnownLanes, Remembered};
use visits::Visits;

/// How far the memory stays behind the present. Whatever transaction made a delivery this long ago has committed.
const BEHIND: TimeDelta = TimeDelta::seconds(2);

/// Between two searches without the memory, unless they are slow.
const LOOK_AT_ALL: Duration = Duration::from_secs(1);

/// A lane without deliveries for this long is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(600);

/// A search goes through this many known lanes per look. Each costs Postgres some 30 µs. With no more lanes than these, each
/// patient look is a search.
const PART: usize = 32;

/// Parts of a search take at most one part in this many of the time.
const SHARE: u32 = 10;

/// Between the end of a search and the begin of the next one, with more lanes than a part has.
const SEARCH_AGAIN: Duration = Duration::from_millis(500);

/// So many proven lanes are remembered as used lately.
const LATELY: usize = 64;

#[derive(Debug)]
pub(super) struct LaneMemory {
    lanes: KnownLanes,
    /// The proven lanes in which attempts began lately, the last one first.
    used_lately: VecDeque<LaneId>,
    /// Deliveries with lower ids are no news.
    made_since: DeliveryId,
    /// The search that is under way.
    search: Option<Search>,
    /// News came since it began, and it may have passed what they are about.
    is_outdated: bool,
    /// Before that no part of a search begins.
    next_part: Instant,
    /// When the next search begins, unless news come.
    next_search: Instant,
    look_at_all: LookAtAll,
    progress: PerPace<Progress>,
}

/// How far one pace is.
#[derive(Debug)]
struct Progress {
    /// The last look left out lanes that have something due, and room for it.
    left_some_out: bool,
    /// It found lanes that have something due, and no room for it.
    is_short: bool,
    /// The number of this pass. A pass is the rounds between two waits.
    pass: u64,
    /// The last pass in which claims, of either pace, found lanes of this one empty.
    empty_in: Option<u64>,
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
            lanes: KnownLanes::default(),
            used_lately: VecDeque::with_capacity(LATELY),
            made_since: DeliveryId::MAX,
            search: None,
            is_outdated: false,
            next_part: now,
            next_search: now,
            look_at_all: LookAtAll::new(now, LOOK_AT_ALL),
            progress: PerPace::default(),
        }
    }

    /// These lanes gave something back. They may have more, or their next attempt or their gate have got another time.
    /// Returns whether the other pace should look as well.
    pub(super) fn are_freed(&mut self, pace: Pace, freed: &HashSet<LaneId>, now: Instant) -> bool {
        let mut is_news_for_other = !freed.is_empty() && self.progress[pace.other()].is_short;
        for lane in freed {
            let is_of_other = self.lanes.change(*lane, |lane| {
                (lane.due_at, lane.told_at) = (Some(DateTime::UNIX_EPOCH), now);
                (lane.empty_in, lane.is_full) = (0, false);
                lane.pace() != pace
            });
            is_news_for_other |= is_of_other.unwrap_or_default();
        }
        is_news_for_other
    }

    /// The prompt pace heard news. Returns whether the patient one should look as well: a lane that was empty may be so no more.
    pub(super) fn are_news_for_patient(&self) -> bool {
        self.progress[Pace::Patient].were_just_empty()
    }

    /// Something may be due in a lane where we do not expect it. So the next search begins now, or after the one that is under
    /// way.
    pub(super) fn search_anew(&mut self, now: Instant) {
        self.is_outdated = self.search.is_some();
        self.search.get_or_insert_with(|| Search::new(now, &self.look_at_all));
    }

    /// What a look at `now` visits; `present` is Postgres' time.
    pub(super) fn search(
        &mut self,
        pace: Pace,
        now: Instant,
        present: DateTime<Utc>,
        seats: &Pool,
    ) -> LaneSearch {
        let (_, last) = LaneSearch::ENDS;
        let (made_since, (after, before)) = match pace {
            Pace::Prompt => (self.made_since, (last, last)),
            Pace::Patient => (DeliveryId::MAX, self.next_part(now)),
        };
        let looks_at_all = self.search.as_ref().is_some_and(|search| search.looks_at_all);
        let part = self.lanes.between(after, before).map(|(lane, remembered)| {
            let since = if looks_at_all { DateTime::UNIX_EPOCH } else { remembered.since };
            KnownLane { lane, since }
        });
        let mut known: Vec<KnownLane> = part.collect();
        let pass = self.progress[pace].pass;
        let is_in_part = |lane: LaneId| lane > after && lane < before;
        let due = self.lanes.to_visit(pace, present);
        let due: Vec<&Remembered> =
            due.filter(|due| due.empty_in < pass && !is_in_part(due.lane.lane)).collect();
        // Chance decides whose turn it is: no lane always comes last and goes without.
        let (later, sooner) = due.split_at(rand::random_range(0..due.len().max(1)));
        let mut visits = Visits::new(pace, seats);
        sooner.iter().chain(later).for_each(|due| visits.add(due));
        let visits = visits.chosen();
        let progress = &mut self.progress[pace];
        (progress.left_some_out, progress.is_short) = (visits.left_some_out, visits.is_short);
        known.extend(visits.lanes.into_iter().map(|lane| KnownLane { lane, since: self.since(lane) }));
        LaneSearch { known, made_since, after, before }
    }

    /// Leaves those of these lanes from which the next claim of this pace takes. The others follow with its next look, but for
    /// new ones, which the prompt pace leaves to the patient one. Returns whether it leaves such for which there is room.
    pub(super) fn choose(&mut self, pace: Pace, due: &mut Vec<LaneHead>, seats: &Pool) -> bool {
        let (mut own, mut others) = (Visits::new(pace, seats), Visits::new(pace, seats));
        let lanes = due.iter().filter_map(|head| self.lanes.get(head.lane));
        for lane in lanes.filter(|lane| !lane.is_full) {
            match (pace, lane.pace()) {
                (Pace::Prompt, Pace::Patient) => others.add(lane),
                (Pace::Patient, Pace::Prompt) => {}
                _ => own.add(lane),
            }
        }
        let (own, others) = (own.chosen(), others.chosen());
        self.progress[pace].left_some_out |= own.left_some_out;
        // For these the other pace looks once something is given back.
        self.progress[pace.other()].is_short |= others.is_short;
        let chosen: HashSet<LaneId> = own.lanes.into_iter().chain(others.lanes).collect();
        due.retain(|head| chosen.contains(&head.lane));
        others.left_some_out
    }

    /// A claim brought nothing for seats that were reserved for it. Returns whether the other pace should look, because it may
    /// have waited for them.
    pub(super) fn were_reserved_in_vain(&self, pace: Pace) -> bool {
        // They were for lanes of the patient pace.
        pace == Pace::Prompt || self.progress[Pace::Prompt].is_short
    }

    /// There were fewer seats than lanes to claim from.
    pub(super) fn was_short(&mut self) {
        for pace in [Pace::Prompt, Pace::Patient] {
            self.progress[pace].is_short = true;
        }
    }

    /// An attempt is about to begin in each of these lanes.
    pub(super) fn begin_attempts(&mut self, lanes: impl Iterator<Item = LaneId>) {
        for lane in lanes {
            let pace = self.lanes.change(lane, |lane| {
                lane.is_full = lane.pace() == Pace::Patient;
                lane.pace()
            });
            if pace == Some(Pace::Prompt) {
                self.used_lately.retain(|used| *used != lane);
                self.used_lately.truncate(LATELY - 1);
                self.used_lately.push_front(lane);
            }
        }
    }

    /// The lanes in which attempts began lately that are still proven, and in which nothing is due now but what waits for an
    /// earlier webhook of its job.
    pub(super) fn idle(&self, present: DateTime<Utc>) -> impl Iterator<Item = &Remembered> {
        let pass = self.progress[Pace::Prompt].pass;
        let is_idle = move |lane: &&Remembered| !lane.is_due(present) || lane.empty_in + 1 >= pass;
        let lately = self.used_lately.iter().filter_map(|lane| self.lanes.get(*lane));
        lately.filter(|lane| lane.pace() == Pace::Prompt).filter(is_idle)
    }

    /// A claim that began at `began` found no more in these lanes than it took.
    pub(super) fn are_empty(&mut self, pace: Pace, lanes: &[LaneId], began: Instant) {
        let pass = self.progress[pace].pass;
        for lane in lanes {
            let empty = self.lanes.change(*lane, |lane| {
                if lane.told_at > began {
                    return None;
                }
                if lane.pace() == pace {
                    lane.empty_in = pass;
                }
                Some(lane.pace())
            });
            if let Some(of) = empty.flatten() {
                self.progress[of].empty_in = Some(self.progress[of].pass);
            }
        }
    }

    /// The loop waits for news now. After that the lanes that were empty are worth a visit again.
    pub(super) fn pass_ends(&mut self, pace: Pace) {
        self.progress[pace].pass += 1;
    }

    /// The part of all lanes that a look at `now` searches through.
    fn next_part(&mut self, now: Instant) -> (LaneId, LaneId) {
        let (_, last) = LaneSearch::ENDS;
        if now < self.next_part || (self.search.is_none() && now < self.next_search) {
            return (last, last);
        }
        let search = self.search.get_or_insert_with(|| Search::new(now, &self.look_at_all));
        let before = self.lanes.between(search.after, last).nth(PART);
        (search.after, before.map_or(last, |(lane, _)| lane))
    }

    /// Learns from this look, which began at `began` and ended now. Returns whether the other pace should look as well.
    pub(super) fn learn(
        &mut self,
        pace: Pace,
        look: &LaneSearch,
        lanes: &Lanes,
        began: Instant,
        ended: Instant,
    ) -> bool {
        if pace == Pace::Prompt {
            self.made_since = lanes.made_since;
            self.progress[Pace::Prompt].left_some_out |= lanes.has_more_new;
        }
        let behind = lanes.now - BEHIND;
        let mut were_due_at = HashMap::new();
        for known in &look.known {
            self.lanes.change(known.lane, |lane| {
                if lane.told_at <= began {
                    lane.since = behind;
                    were_due_at.insert(known.lane, lane.due_at.take());
                }
            });
        }
        let mut is_news_for_other = false;
        for head in &lanes.heads {
            let lane =
                CountedLane { lane: head.lane, client: head.client, destination: None, health: head.health };
            let was_due_at = were_due_at.remove(&head.lane).flatten();
            self.lanes.add(&lane, ended);
            let is_for_other = self.lanes.change(head.lane, |remembered| {
                let was_due_at = was_due_at.or(remembered.due_at);
                let (was_pace, is_new) =
                    (remembered.pace(), was_due_at.is_none_or(|at| at > head.claimable_at()));
                remembered.learn(head, lane, ended);
                // What is new and due the prompt pace claims itself.
                let is_claimed_now = pace == Pace::Prompt && remembered.is_due(lanes.now);
                let is_for_other =
                    remembered.pace() != pace && remembered.due_at.is_some() && !is_claimed_now;
                is_for_other && (is_new || remembered.pace() != was_pace)
            });
            is_news_for_other |= is_for_other.unwrap_or_default();
        }
        self.end_part(look, lanes, began, ended);
        is_news_for_other
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
            let passed = self.lanes.between(search.after, look.before).last();
            search.after = passed.map_or(search.after, |(lane, _)| lane);
            return;
        }
        self.look_at_all.looked(search.began, ended);
        self.search = mem::take(&mut self.is_outdated).then(|| Search::new(ended, &self.look_at_all));
        self.lanes.forget(|remembered| ended >= remembered.busy + FORGET_AFTER);
        self.next_search = if self.lanes.len() > PART { ended + SEARCH_AGAIN } else { ended };
    }

    /// When the next look is due, because something comes due by then or was left out by the last look.
    pub(super) fn next_look(&self, pace: Pace, now: Instant, present: DateTime<Utc>) -> Round {
        if self.progress[pace].left_some_out {
            return Round::More;
        }
        let later = self.lanes.next_visit(pace, present);
        let later = later.map(|at| now + (at - present).to_std().unwrap_or_default());
        let next_part = match &self.search {
            Some(_) => Some(self.next_part),
            // With few lanes the poll is soon enough.
            None => (self.lanes.len() > PART).then(|| self.next_part.max(self.next_search)),
        };
        let part = next_part.filter(|_| pace == Pace::Patient);
        later.into_iter().chain(part).min().map_or(Round::Idle, |moment| Round::Until(moment.into()))
    }

    /// Whether a lane has something due, with room for it or not.
    pub(super) fn has_due(&self, present: DateTime<Utc>) -> bool {
        self.lanes.have_due(present)
    }

    /// The moment from which on to claim in a lane.
    pub(super) fn since(&self, lane: LaneId) -> DateTime<Utc> {
        self.lanes.get(lane).map_or(DateTime::UNIX_EPOCH, |remembered| remembered.since)
    }
}

impl Search {
    fn new(now: Instant, look_at_all: &LookAtAll) -> Self {
        let (after, _) = LaneSearch::ENDS;
        Self { began: now, after, looks_at_all: look_at_all.is_due(now) }
    }
}

impl Progress {
    /// Claims found lanes empty in this pass, or in the one before.
    fn were_just_empty(&self) -> bool {
        self.empty_in.is_some_and(|pass| pass + 1 >= self.pass)
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self { left_some_out: false, is_short: false, pass: 1, empty_in: None }
    }
}

#[cfg(test)]
mod tests;
