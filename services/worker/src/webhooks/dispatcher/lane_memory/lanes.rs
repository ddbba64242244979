//! The lanes that are remembered, and the order in which they come due. A client may have thousands that hang, so a round must
//! not go through all of them. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};

use chrono::{DateTime, Utc};
use foreman_store::{LaneId, LaneSearch};

use super::Remembered;
use crate::webhooks::dispatcher::pace::{Pace, PerPace};

#[derive(Debug, Default)]
pub(super) struct RememberedLanes {
    lanes: BTreeMap<LaneId, Remembered>,
    /// When each lane comes due that has something due and room for it.
    due: PerPace<BTreeSet<(DateTime<Utc>, LaneId)>>,
}

impl RememberedLanes {
    pub(super) fn len(&self) -> usize {
        self.lanes.len()
    }

    pub(super) fn get(&self, id: LaneId) -> Option<&Remembered> {
        self.lanes.get(&id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Remembered> {
        self.lanes.values()
    }

    /// Those with ids above this one, in order.
    pub(super) fn after(&self, id: LaneId) -> impl Iterator<Item = (LaneId, &Remembered)> {
        self.lanes.range((Excluded(id), Unbounded)).map(|(id, lane)| (*id, lane))
    }

    /// The last one with an id below this one.
    pub(super) fn last_before(&self, id: LaneId) -> Option<LaneId> {
        self.lanes.range(..id).next_back().map(|(id, _)| *id)
    }

    /// Those of this pace that are due and not full.
    pub(super) fn due(
        &self,
        pace: Pace,
        present: DateTime<Utc>,
    ) -> impl Iterator<Item = (LaneId, &Remembered)> {
        let (_, last) = LaneSearch::ENDS;
        self.due[pace].range(..=(present, last)).map(|(_, id)| (*id, &self.lanes[id]))
    }

    /// When the next one of this pace comes due after `present`.
    pub(super) fn next_due(&self, pace: Pace, present: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let (_, last) = LaneSearch::ENDS;
        self.due[pace].range((Excluded((present, last)), Unbounded)).next().map(|(at, _)| *at)
    }

    /// Changes one. Returns what `change` does; `None` if the lane is not known.
    pub(super) fn change<T>(&mut self, id: LaneId, change: impl FnOnce(&mut Remembered) -> T) -> Option<T> {
        let lane = self.lanes.get_mut(&id)?;
        Some(in_order(&mut self.due, id, lane, change))
    }

    /// Changes one, or `new` if the lane is not known.
    pub(super) fn change_or_add<T>(
        &mut self,
        id: LaneId,
        new: Remembered,
        change: impl FnOnce(&mut Remembered) -> T,
    ) -> T {
        in_order(&mut self.due, id, self.lanes.entry(id).or_insert(new), change)
    }

    pub(super) fn retain(&mut self, keep: impl Fn(LaneId, &Remembered) -> bool) {
        let forgotten: Vec<_> = self.lanes.extract_if(.., |id, lane| !keep(*id, lane)).collect();
        for (id, lane) in forgotten {
            if let Some((pace, at)) = lane.is_for() {
                self.due[pace].remove(&(at, id));
            }
        }
    }
}

/// Changes a lane that is in the map, and keeps the order true. A new one has nothing due.
fn in_order<T>(
    due: &mut PerPace<BTreeSet<(DateTime<Utc>, LaneId)>>,
    id: LaneId,
    lane: &mut Remembered,
    change: impl FnOnce(&mut Remembered) -> T,
) -> T {
    let before = lane.is_for();
    let result = change(lane);
    let after = lane.is_for();
    if before != after {
        if let Some((pace, at)) = before {
            due[pace].remove(&(at, id));
        }
        if let Some((pace, at)) = after {
            due[pace].insert((at, id));
        }
    }
    result
}
