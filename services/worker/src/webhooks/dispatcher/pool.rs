//! A bounded amount of something (attempts, bytes), and how much of it each lane, client and destination uses now. Each of
//! them gets a bounded part, so that a receiver that hangs, a client that sends much and a receiver that many clients name
//! cannot stop the others.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::destination::Destination;
use super::freed::Freed;
use super::pace::Pace;
use foreman_store::{ClientId, LaneHealth, LaneId};

/// A proven lane that uses something and has given nothing back for this long counts as unproven until it does: it may have
/// begun to hang, and would hold all that it may have until its attempts time out.
const SILENT: Duration = Duration::from_secs(2);

/// What a delivery is counted under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CountedLane {
    pub(super) lane: LaneId,
    /// `None` where the lane's row is gone. Then only the lane itself is counted.
    pub(super) client: Option<ClientId>,
    pub(super) destination: Option<Destination>,
    pub(super) health: LaneHealth,
}

/// How much may be used at the same time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) all: u64,
    /// By all lanes together that are not proven. However many of them hang, the rest goes on. Of this, a client may use as
    /// much as it leaves free: so one more client always has some, and a client alone has half.
    pub(super) unproven: u64,
    pub(super) per_lane: u64,
    /// Also for a proven lane while it is silent.
    pub(super) per_unproven_lane: u64,
    /// Per client, however many receivers it names.
    pub(super) per_client: u64,
    /// Per address and port, under however many names and by however many clients it is called. Of this, too, a client may use as
    /// much as it leaves free: many receivers may be behind one address.
    pub(super) per_destination: u64,
}

/// What one limit counts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Counted {
    All,
    Unproven,
    UnprovenOf(ClientId),
    Lane(LaneId),
    Client(ClientId),
    Destination(Destination),
    DestinationOf(Destination, ClientId),
}

/// What each of these uses. An entry at zero goes, so that the map is no larger than what is in use.
#[derive(Debug, Default)]
struct Tally {
    used: HashMap<Counted, u64>,
    /// When each lane that uses something last began to do so or gave something back.
    moved: HashMap<LaneId, Instant>,
}

/// Shared by those who take parts of it and those who give them back.
#[derive(Debug, Clone)]
pub(super) struct Pool {
    limits: Limits,
    used: Arc<Mutex<Tally>>,
    /// Is told when a part is given back.
    freed: Arc<Freed>,
}

/// A part of a pool. It is given back on drop.
#[derive(Debug)]
pub(super) struct Part {
    pool: Pool,
    lane: CountedLane,
    amount: u64,
    /// When the dispatcher hears that it is given back.
    notice: Notice,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Notice {
    /// At once, unless nothing can be waiting for it.
    Now,
    Later,
    /// Never: it was not used.
    Never,
}

impl Limits {
    pub(super) const NONE: Self = Self {
        all: u64::MAX,
        unproven: u64::MAX,
        per_lane: u64::MAX,
        per_unproven_lane: u64::MAX,
        per_client: u64::MAX,
        per_destination: u64::MAX,
    };

    /// The limits that hold for a lane.
    fn of(&self, lane: &CountedLane) -> impl Iterator<Item = (Counted, u64)> {
        let is_unproven = lane.health != LaneHealth::Proven;
        let per_lane = if is_unproven { self.per_unproven_lane } else { self.per_lane };
        let of_destination = lane.destination.clone().into_iter().flat_map(|destination| {
            let of_client = lane.client.map(|client| Counted::DestinationOf(destination.clone(), client));
            of_client.into_iter().chain([Counted::Destination(destination)])
        });
        self.of_client(lane.client, is_unproven)
            .chain([(Counted::Lane(lane.lane), per_lane)])
            .chain(of_destination.map(|counted| (counted, self.per_destination)))
    }

    /// The limits that hold for all lanes of a client that are unproven, or for all that are proven.
    fn of_client(&self, client: Option<ClientId>, is_unproven: bool) -> impl Iterator<Item = (Counted, u64)> {
        let unproven = [(Counted::Unproven, self.unproven)];
        let unproven_of_client = client.map(|client| (Counted::UnprovenOf(client), self.unproven));
        [(Counted::All, self.all)]
            .into_iter()
            .chain(client.map(|client| (Counted::Client(client), self.per_client)))
            .chain(unproven.into_iter().chain(unproven_of_client).filter(move |_| is_unproven))
    }
}

impl Tally {
    /// How much more the lane may have.
    fn room(&self, limits: &Limits, lane: &CountedLane, now: Instant) -> u64 {
        let room = self.left(limits.of(lane));
        let is_silent = self.moved.get(&lane.lane).is_some_and(|moved| now > *moved + SILENT);
        let most = if is_silent { limits.per_unproven_lane } else { u64::MAX };
        room.min(self.left([(Counted::Lane(lane.lane), most)]))
    }

    /// How much more may be used under each of these limits.
    fn left(&self, limits: impl IntoIterator<Item = (Counted, u64)>) -> u64 {
        let left = |(counted, limit): (Counted, u64)| {
            let used = self.used(&counted);
            // What a client uses counts twice: it must leave as much free.
            let used_by_all = match &counted {
                Counted::UnprovenOf(_) => self.used(&Counted::Unproven),
                Counted::DestinationOf(destination, _) => {
                    self.used(&Counted::Destination(destination.clone()))
                }
                _ => 0,
            };
            limit.saturating_sub(used + used_by_all)
        };
        limits.into_iter().map(left).min().unwrap_or_default()
    }

    fn add(&mut self, limits: &Limits, lane: &CountedLane, amount: u64, now: Instant) {
        self.count(limits, lane, amount);
        self.moved.entry(lane.lane).or_insert(now);
    }

    fn subtract(&mut self, limits: &Limits, lane: &CountedLane, amount: u64, now: Instant) {
        self.discount(limits, lane, amount);
        if self.used(&Counted::Lane(lane.lane)) == 0 {
            self.moved.remove(&lane.lane);
        } else {
            self.moved.insert(lane.lane, now);
        }
    }

    fn count(&mut self, limits: &Limits, lane: &CountedLane, amount: u64) {
        for (counted, _) in limits.of(lane) {
            *self.used.entry(counted).or_default() += amount;
        }
    }

    fn discount(&mut self, limits: &Limits, lane: &CountedLane, amount: u64) {
        for (counted, _) in limits.of(lane) {
            if let Entry::Occupied(mut used) = self.used.entry(counted) {
                *used.get_mut() -= amount;
                if *used.get() == 0 {
                    used.remove();
                }
            }
        }
    }

    fn used(&self, counted: &Counted) -> u64 {
        self.used.get(counted).copied().unwrap_or_default()
    }
}

impl Pool {
    pub(super) fn new(limits: Limits, freed: Arc<Freed>) -> Self {
        Self { limits, used: Arc::default(), freed }
    }

    /// How much more may be used in all.
    pub(super) fn room(&self) -> u64 {
        self.limits.all.saturating_sub(self.tally().used(&Counted::All))
    }

    /// How much more all unproven lanes of this client may use.
    pub(super) fn unproven_room_of(&self, client: ClientId) -> u64 {
        self.tally().left(self.limits.of_client(Some(client), true))
    }

    /// How much more this lane may use.
    pub(super) fn room_at(&self, lane: &CountedLane) -> u64 {
        self.tally().room(&self.limits, lane, Instant::now())
    }

    /// How much each of these lanes may use now. The clients get one each in turn, and each client gives it to its lanes in
    /// turn, from the lane at `first` on; those that fail come last. This goes on until there is no room for any of them.
    pub(super) fn offer(&self, lanes: &[CountedLane], first: usize) -> Vec<u64> {
        let now = Instant::now();
        let mut tally = self.tally();
        let mut offered = vec![0; lanes.len()];
        let mut hungry = by_client(lanes, first);
        while !hungry.is_empty() {
            hungry.retain_mut(|line| {
                while let Some(index) = line.pop_front() {
                    if tally.room(&self.limits, &lanes[index], now) > 0 {
                        tally.count(&self.limits, &lanes[index], 1);
                        offered[index] += 1;
                        line.push_back(index);
                        return true;
                    }
                }
                false
            });
        }
        // What was counted up to here nobody uses yet.
        for (lane, offered) in lanes.iter().zip(&offered) {
            tally.discount(&self.limits, lane, *offered);
        }
        offered
    }

    /// Takes a part, also where it is larger than the room left.
    pub(super) fn take(&self, lane: CountedLane, amount: u64) -> Part {
        self.tally().add(&self.limits, &lane, amount, Instant::now());
        self.part(lane, amount)
    }

    /// Takes one, if there is room for it.
    pub(super) fn reserve(&self, lane: &CountedLane) -> Option<Part> {
        let (mut tally, now) = (self.tally(), Instant::now());
        (tally.room(&self.limits, lane, now) > 0).then(|| {
            tally.add(&self.limits, lane, 1, now);
            self.part(lane.clone(), 1)
        })
    }

    fn part(&self, lane: CountedLane, amount: u64) -> Part {
        Part { pool: self.clone(), lane, amount, notice: Notice::Now }
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The lanes of each client, as indices, from the one at `first` on. A lane whose row is gone has a line of its own.
fn by_client(lanes: &[CountedLane], first: usize) -> Vec<VecDeque<usize>> {
    let first = first.min(lanes.len());
    let mut lines: Vec<VecDeque<usize>> = Vec::new();
    let mut line_of: HashMap<ClientId, usize> = HashMap::new();
    let is_failing = |index: &usize| lanes[*index].health == LaneHealth::Failing;
    let (failing, others): (Vec<usize>, Vec<usize>) =
        (first..lanes.len()).chain(0..first).partition(is_failing);
    for index in others.into_iter().chain(failing) {
        let new = lines.len();
        let line = lanes[index].client.map_or(new, |client| *line_of.entry(client).or_insert(new));
        if line == new {
            lines.push(VecDeque::new());
        }
        lines[line].push_back(index);
    }
    lines
}

impl Part {
    pub(super) fn lane(&self) -> &CountedLane {
        &self.lane
    }

    /// When it is given back, the dispatcher may hear of that a moment later.
    pub(super) fn may_be_told_later(&mut self) {
        self.notice = Notice::Later;
    }

    /// Gives back a part that was reserved in vain.
    pub(super) fn was_not_used(mut self) {
        self.notice = Notice::Never;
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let (limits, now) = (&self.pool.limits, Instant::now());
        let mut tally = self.pool.tally();
        // While the lane has room, nothing waits for this part. Its next look only tells when its next attempt is due.
        let has_room = tally.room(limits, &self.lane, now) > 0;
        tally.subtract(limits, &self.lane, self.amount, now);
        drop(tally);
        let freed = &self.pool.freed[Pace::of(self.lane.health)];
        match self.notice {
            Notice::Now if !has_room => freed.tell(self.lane.lane),
            Notice::Now | Notice::Later => freed.tell_later(self.lane.lane),
            Notice::Never => {}
        }
    }
}

#[cfg(test)]
impl Pool {
    pub(super) fn is_unused(&self) -> bool {
        let tally = self.tally();
        tally.used.is_empty() && tally.moved.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proven_lane_that_falls_silent_gets_no_more_until_it_answers() {
        let limits = Limits { per_lane: 32, per_unproven_lane: 1, ..Limits::NONE };
        let (client, now) = (ClientId::generate(), Instant::now());
        let id = LaneId::derive(client, "https://a.example");
        let lane =
            CountedLane { lane: id, client: Some(client), destination: None, health: LaneHealth::Proven };
        let mut tally = Tally::default();
        tally.add(&limits, &lane, 3, now);
        assert_eq!(tally.room(&limits, &lane, now + SILENT), 29);
        let later = now + SILENT + Duration::from_millis(1);
        assert_eq!(tally.room(&limits, &lane, later), 0);
        tally.subtract(&limits, &lane, 1, later);
        assert_eq!(tally.room(&limits, &lane, later), 30);
    }
}
