//! Looks at few lanes leave none out. Looks at very many visit few, and leave none out for long.

use std::sync::Arc;

use foreman_store::{ClientId, LaneHead, LaneHealth};

use super::visits::{PROVEN, UNPROVEN};
use super::*;
use crate::webhooks::dispatcher::freed::Freed;
use crate::webhooks::dispatcher::pool::Part;
use crate::webhooks::dispatcher::seats::seats;

/// A dispatcher's memory, and a Postgres whose clock shows `present`.
struct Rig {
    memory: LaneMemory,
    seats: Pool,
    freed: Arc<Freed>,
    client: ClientId,
    now: Instant,
    present: DateTime<Utc>,
}

impl Rig {
    fn new() -> Self {
        let freed = Arc::<Freed>::default();
        let seats = seats(Arc::clone(&freed));
        let (client, now, present) = (ClientId::generate(), Instant::now(), Utc::now());
        Self { memory: LaneMemory::new(), seats, freed, client, now, present }
    }

    fn head(&self, name: usize, first_at: DateTime<Utc>) -> LaneHead {
        LaneHead {
            lane: LaneId::derive(self.client, &name.to_string()),
            client: Some(self.client),
            origin: None,
            health: LaneHealth::NeverTried,
            is_disabled: false,
            first_at,
            opens_at: None,
        }
    }

    /// Lanes of one client, in the order of their ids.
    fn heads(&self, count: usize, first_at: DateTime<Utc>) -> Vec<LaneHead> {
        let mut heads: Vec<LaneHead> = (0..count).map(|name| self.head(name, first_at)).collect();
        heads.sort_unstable_by_key(|head| head.lane);
        heads
    }

    fn search(&mut self) -> LaneSearch {
        self.memory.search(self.now, self.present, &self.seats, &self.freed.take())
    }

    fn learn(&mut self, search: &LaneSearch, heads: &[LaneHead]) {
        let lanes = Lanes {
            now: self.present,
            heads: heads.to_vec(),
            made_since: DeliveryId::MAX,
            has_more_new: false,
            is_cut: false,
        };
        self.memory.learn(search, &lanes, self.now, self.now);
    }

    /// A look, and what it visits. It finds those of these lanes that it visits.
    fn look(&mut self, heads: &[LaneHead]) -> Vec<LaneId> {
        let search = self.search();
        let mut visited: Vec<LaneId> = search.known.iter().map(|known| known.lane).collect();
        visited.sort_unstable();
        let found: Vec<LaneHead> =
            heads.iter().filter(|head| visited.binary_search(&head.lane).is_ok()).cloned().collect();
        self.learn(&search, &found);
        visited
    }

    /// Learns of these lanes, and ends the search that found them.
    fn know(&mut self, heads: &[LaneHead]) {
        let search = self.search();
        self.learn(&search, heads);
        while self.memory.search.is_some() {
            self.look(heads);
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.present += time;
    }

    fn take_seat(&self, head: &LaneHead) -> Part {
        self.seats.take(self.memory.lanes[&head.lane].lane.clone(), 1)
    }
}

fn until(moment: Instant) -> Round {
    Round::Until(moment.into())
}

#[test]
fn the_memory_stays_behind_the_present_and_before_what_still_lives() {
    let mut rig = Rig::new();
    let old = rig.present - TimeDelta::minutes(5);
    let heads = [rig.head(0, old), rig.head(1, rig.present)];
    rig.know(&heads);
    assert_eq!(rig.memory.since(heads[0].lane), DateTime::UNIX_EPOCH, "no look was at this lane alone");
    rig.look(&heads);
    assert_eq!(rig.memory.since(heads[0].lane), old);
    assert_eq!(rig.memory.since(heads[1].lane), rig.present - BEHIND);

    rig.pass(Duration::from_secs(60));
    rig.look(&[]);
    assert_eq!(rig.memory.since(heads[0].lane), rig.present - BEHIND);
    assert_eq!(rig.memory.since(rig.head(2, old).lane), DateTime::UNIX_EPOCH);
}

#[test]
fn now_and_then_everything_is_looked_at_and_more_seldom_where_that_is_slow() {
    let mut rig = Rig::new();
    let heads = [rig.head(0, rig.present)];
    rig.know(&heads);
    rig.look(&heads);
    rig.pass(LOOK_AT_ALL);
    let search = rig.search();
    assert_eq!(search.known[0].since, DateTime::UNIX_EPOCH);
    let began = rig.now;
    rig.pass(Duration::from_secs(1));
    let lanes = Lanes {
        now: rig.present,
        heads: heads.to_vec(),
        made_since: DeliveryId::MAX,
        has_more_new: false,
        is_cut: false,
    };
    rig.memory.learn(&search, &lanes, began, rig.now);
    for (wait, is_all) in [(0, false), (19, false), (1, true)] {
        rig.pass(Duration::from_secs(wait));
        let since = rig.search().known[0].since;
        assert_eq!(since == DateTime::UNIX_EPOCH, is_all, "{wait}");
        rig.memory.search = None;
    }
}

#[test]
fn a_lane_without_deliveries_is_forgotten_in_time() {
    let mut rig = Rig::new();
    let heads = [rig.head(0, rig.present)];
    rig.know(&heads);
    rig.pass(FORGET_AFTER);
    assert_eq!(rig.look(&[]).len(), 1);
    assert!(rig.look(&[]).is_empty());
}

#[test]
fn each_look_searches_through_all_of_a_few_lanes() {
    let mut rig = Rig::new();
    let later = rig.present + TimeDelta::hours(1);
    let heads = rig.heads(PART, later);
    rig.know(&heads);
    for _ in 0..3 {
        let search = rig.search();
        assert_eq!((search.known.len(), (search.after, search.before)), (PART, LaneSearch::ENDS));
        rig.learn(&search, &heads);
    }
}

#[test]
fn many_lanes_are_searched_part_by_part_and_again_soon() {
    let mut rig = Rig::new();
    let later = rig.present + TimeDelta::hours(1);
    let heads = rig.heads(1_000, later);
    let (first, last) = LaneSearch::ENDS;
    rig.know(&heads);
    for _ in 0..2 {
        assert!(rig.look(&heads).is_empty(), "nothing is due, and the search has ended");
        rig.pass(SEARCH_AGAIN);
        let (mut seen, mut at, mut looks) = (HashSet::new(), first, 0);
        while at < last {
            let search = rig.search();
            assert!(search.known.len() <= PART);
            assert!(search.after <= at, "no gap between the parts");
            at = search.before;
            seen.extend(search.known.iter().map(|known| known.lane));
            rig.learn(&search, &[]);
            looks += 1;
        }
        assert_eq!((seen.len(), looks), (1_000, 1_000_usize.div_ceil(PART)));
    }
}

#[test]
fn a_search_takes_a_part_of_the_time() {
    let mut rig = Rig::new();
    let heads = rig.heads(1_000, rig.present + TimeDelta::hours(1));
    rig.know(&heads);
    rig.pass(SEARCH_AGAIN);
    let search = rig.search();
    let began = rig.now;
    rig.pass(Duration::from_millis(3));
    let lanes = Lanes {
        now: rig.present,
        heads: Vec::new(),
        made_since: DeliveryId::MAX,
        has_more_new: false,
        is_cut: false,
    };
    rig.memory.learn(&search, &lanes, began, rig.now);
    assert!(rig.search().known.is_empty());
    assert_eq!(rig.memory.next_look(rig.now, rig.present), until(rig.now + Duration::from_millis(27)));
    rig.pass(Duration::from_millis(27));
    assert_eq!(rig.search().known.len(), PART);
}

#[test]
fn a_part_with_more_unknown_lanes_than_a_look_finds_is_searched_again() {
    let mut rig = Rig::new();
    let heads = rig.heads(PART + 10, rig.present + TimeDelta::hours(1));
    let lanes = Lanes {
        now: rig.present,
        heads: heads.clone(),
        made_since: DeliveryId::MAX,
        has_more_new: false,
        is_cut: true,
    };
    let search = rig.search();
    rig.memory.learn(&search, &lanes, rig.now, rig.now);
    let search = rig.search();
    assert_eq!((search.known.len(), search.after), (PART, LaneSearch::ENDS.0));
    rig.learn(&search, &[]);
    assert_eq!(rig.search().before, LaneSearch::ENDS.1);
}

#[test]
fn of_many_lanes_those_are_visited_that_have_something_due_and_room() {
    let mut rig = Rig::new();
    let mut heads = rig.heads(500, rig.present + TimeDelta::hours(1));
    for head in &mut heads[..5] {
        head.first_at = rig.present + TimeDelta::seconds(1);
    }
    rig.know(&heads);
    let wait = Duration::from_secs(1);
    assert_eq!(rig.memory.next_look(rig.now, rig.present), until(rig.now + wait));
    assert!(rig.look(&heads).is_empty());
    rig.pass(wait);
    rig.memory.next_part = rig.now + wait;
    let due: Vec<LaneId> = heads[..5].iter().map(|head| head.lane).collect();
    assert_eq!(rig.look(&heads), due);
    let sending = rig.take_seat(&heads[0]);
    assert_eq!(rig.look(&heads), due[1..], "an unproven lane has one seat");
    assert!(rig.memory.has_due(rig.present));
    drop(sending);
    assert_eq!(rig.look(&heads[1..]), due, "and is visited once that is free");
    assert_eq!(rig.look(&heads), due[1..], "until nothing is found there");
}

#[test]
fn new_deliveries_make_their_lanes_due() {
    let mut rig = Rig::new();
    let later = rig.present + TimeDelta::hours(1);
    let heads = rig.heads(500, later);
    rig.know(&heads);
    let new =
        [rig.head(1, rig.present), rig.head(1_000, rig.present), rig.head(2, later + TimeDelta::hours(1))];
    let search = rig.search();
    assert!(search.known.is_empty());
    rig.learn(&search, &new);
    let mut due = vec![new[0].lane, new[1].lane];
    due.sort_unstable();
    assert_eq!(rig.look(&new), due);
    assert_eq!(rig.memory.lanes[&new[2].lane].due_at, Some(later), "what waits there already comes first");
}

/// Everything that a look visits, which finds these lanes due.
fn visit_all(rig: &mut Rig, heads: &[LaneHead]) -> Vec<Vec<LaneId>> {
    let mut visits = Vec::new();
    loop {
        let visited = rig.look(heads);
        let is_last = rig.memory.next_look(rig.now, rig.present) != Round::More;
        rig.memory.are_empty(&visited);
        visits.push(visited);
        if is_last {
            return visits;
        }
    }
}

#[test]
fn few_unproven_lanes_are_visited_at_a_time_and_none_twice_before_the_dispatcher_waits() {
    let mut rig = Rig::new();
    let heads = rig.heads(100, rig.present);
    rig.know(&heads);
    for _ in 0..2 {
        let visits = visit_all(&mut rig, &heads);
        assert!(visits.iter().all(|visited| visited.len() <= UNPROVEN), "{visits:?}");
        assert_eq!(visits.len(), 100_usize.div_ceil(UNPROVEN));
        let seen: HashSet<LaneId> = visits.into_iter().flatten().collect();
        assert_eq!(seen.len(), 100);
        assert!(rig.look(&heads).is_empty(), "they are due, and wait for another dispatcher, say");
        rig.memory.pass_ends();
    }
}

#[test]
fn a_new_unproven_lane_is_visited_before_those_that_were_empty() {
    let mut rig = Rig::new();
    let crowd = rig.heads(100, rig.present);
    rig.know(&crowd);
    visit_all(&mut rig, &crowd);
    let new = rig.head(1_000, rig.present);
    let search = rig.search();
    rig.learn(&search, std::slice::from_ref(&new));
    rig.memory.pass_ends();
    assert!(rig.look(&crowd).contains(&new.lane));
}

#[test]
fn the_unproven_lanes_of_a_client_leave_visits_to_those_of_others() {
    let mut rig = Rig::new();
    let crowd = rig.heads(100, rig.present);
    rig.client = ClientId::generate();
    let other = rig.head(0, rig.present);
    let mut heads = [crowd, vec![other.clone()]].concat();
    rig.know(&heads);
    assert!(rig.look(&heads).contains(&other.lane));
    let search = rig.search();
    rig.learn(&search, &heads);
    rig.memory.choose(&mut heads, &rig.seats);
    assert!(heads.contains(&other) && heads.len() == UNPROVEN, "nor does a claim take more than that");
}

#[test]
fn a_client_with_very_many_proven_lanes_due_has_a_part_of_them_visited_in_each_look() {
    let mut rig = Rig::new();
    let mut crowd = rig.heads(PROVEN + 100, rig.present);
    crowd.iter_mut().for_each(|head| head.health = LaneHealth::Proven);
    rig.client = ClientId::generate();
    let other = rig.head(0, rig.present);
    let heads = [crowd.clone(), vec![other.clone()]].concat();
    rig.know(&heads);
    let mut seen = HashSet::new();
    while seen.len() < crowd.len() {
        let visited = rig.look(&heads);
        assert_eq!(visited.len(), PROVEN + 1);
        assert!(visited.contains(&other.lane), "others are always visited");
        seen.extend(visited.into_iter().filter(|lane| *lane != other.lane));
        assert_eq!(rig.memory.next_look(rig.now, rig.present), Round::More, "the rest follows at once");
    }
}
