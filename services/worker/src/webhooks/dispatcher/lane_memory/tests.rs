//! Looks at few lanes leave none out. Looks at very many visit few, and leave none out for long.

use std::sync::Arc;

use foreman_store::{ClientId, LaneHead, LaneHealth};

use super::Pace::{Patient, Prompt};
use super::visits::{PATIENT, PROVEN, UNPROVEN};
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
        let (memory, client) = (LaneMemory::new(), ClientId::generate());
        let (now, present) = (Instant::now(), Utc::now());
        Self { memory, seats, freed, client, now, present }
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

    fn search(&mut self, pace: Pace) -> LaneSearch {
        let freed = self.freed[pace].take();
        self.memory.are_freed(pace, &freed, self.now);
        self.memory.search(pace, self.now, self.present, &self.seats)
    }

    /// What a look finds.
    fn lanes(&self, heads: Vec<LaneHead>) -> Lanes {
        Lanes { now: self.present, heads, made_since: DeliveryId::MAX, has_more_new: false, is_cut: false }
    }

    /// A look finds these lanes.
    fn learn(&mut self, pace: Pace, search: &LaneSearch, heads: &[LaneHead]) -> bool {
        let lanes = self.lanes(heads.to_vec());
        self.memory.learn(pace, search, &lanes, self.now, self.now)
    }

    /// A look, and what it visits. It finds those of these lanes that it visits.
    fn look(&mut self, pace: Pace, heads: &[LaneHead]) -> Vec<LaneId> {
        let search = self.search(pace);
        let mut visited: Vec<LaneId> = search.known.iter().map(|known| known.lane).collect();
        visited.sort_unstable();
        let found: Vec<LaneHead> =
            heads.iter().filter(|head| visited.binary_search(&head.lane).is_ok()).cloned().collect();
        self.learn(pace, &search, &found);
        visited
    }

    /// Learns of these lanes, and ends the search that found them.
    fn know(&mut self, heads: &[LaneHead]) {
        let search = self.search(Patient);
        self.learn(Patient, &search, heads);
        while self.memory.search.is_some() {
            self.look(Patient, heads);
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.present += time;
    }

    fn take_seat(&self, head: &LaneHead) -> Part {
        self.seats.take(self.memory.lanes.get(head.lane).unwrap().lane.clone(), 1)
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
    rig.look(Patient, &heads);
    assert_eq!(rig.memory.since(heads[0].lane), old);
    assert_eq!(rig.memory.since(heads[1].lane), rig.present - BEHIND);

    rig.pass(Duration::from_secs(60));
    rig.look(Patient, &[]);
    assert_eq!(rig.memory.since(heads[0].lane), rig.present - BEHIND);
    assert_eq!(rig.memory.since(rig.head(2, old).lane), DateTime::UNIX_EPOCH);
}

#[test]
fn now_and_then_everything_is_looked_at_and_more_seldom_where_that_is_slow() {
    let mut rig = Rig::new();
    let heads = [rig.head(0, rig.present)];
    rig.know(&heads);
    rig.look(Patient, &heads);
    rig.pass(LOOK_AT_ALL);
    let search = rig.search(Patient);
    assert_eq!(search.known[0].since, DateTime::UNIX_EPOCH);
    let began = rig.now;
    rig.pass(Duration::from_secs(1));
    let lanes = rig.lanes(heads.to_vec());
    rig.memory.learn(Patient, &search, &lanes, began, rig.now);
    for (wait, is_all) in [(0, false), (19, false), (1, true)] {
        rig.pass(Duration::from_secs(wait));
        let since = rig.search(Patient).known[0].since;
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
    assert_eq!(rig.look(Patient, &[]).len(), 1);
    assert!(rig.look(Patient, &[]).is_empty());
}

#[test]
fn each_look_searches_through_all_of_a_few_lanes() {
    let mut rig = Rig::new();
    let later = rig.present + TimeDelta::hours(1);
    let heads = rig.heads(PART, later);
    rig.know(&heads);
    for _ in 0..3 {
        let search = rig.search(Patient);
        assert_eq!((search.known.len(), (search.after, search.before)), (PART, LaneSearch::ENDS));
        rig.learn(Patient, &search, &heads);
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
        assert!(rig.look(Patient, &heads).is_empty(), "nothing is due, and the search has ended");
        rig.pass(SEARCH_AGAIN);
        let (mut seen, mut at, mut looks) = (HashSet::new(), first, 0);
        while at < last {
            let search = rig.search(Patient);
            assert!(search.known.len() <= PART);
            assert!(search.after <= at, "no gap between the parts");
            at = search.before;
            seen.extend(search.known.iter().map(|known| known.lane));
            rig.learn(Patient, &search, &[]);
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
    let search = rig.search(Patient);
    let began = rig.now;
    rig.pass(Duration::from_millis(3));
    let lanes = rig.lanes(Vec::new());
    rig.memory.learn(Patient, &search, &lanes, began, rig.now);
    assert!(rig.search(Patient).known.is_empty());
    assert_eq!(
        rig.memory.next_look(Patient, rig.now, rig.present),
        until(rig.now + Duration::from_millis(27))
    );
    rig.pass(Duration::from_millis(27));
    assert_eq!(rig.search(Patient).known.len(), PART);
}

#[test]
fn a_part_with_more_unknown_lanes_than_a_look_finds_is_searched_again() {
    let mut rig = Rig::new();
    let heads = rig.heads(PART + 10, rig.present + TimeDelta::hours(1));
    let lanes = Lanes { is_cut: true, ..rig.lanes(heads.clone()) };
    let search = rig.search(Patient);
    rig.memory.learn(Patient, &search, &lanes, rig.now, rig.now);
    let search = rig.search(Patient);
    assert_eq!((search.known.len(), search.after), (PART, LaneSearch::ENDS.0));
    rig.learn(Patient, &search, &[]);
    assert_eq!(rig.search(Patient).before, LaneSearch::ENDS.1);
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
    assert_eq!(rig.memory.next_look(Patient, rig.now, rig.present), until(rig.now + SEARCH_AGAIN));
    rig.memory.next_part = rig.now + 2 * wait;
    assert_eq!(rig.memory.next_look(Patient, rig.now, rig.present), until(rig.now + wait));
    assert!(rig.look(Patient, &heads).is_empty());
    rig.pass(wait);
    let due: Vec<LaneId> = heads[..5].iter().map(|head| head.lane).collect();
    assert_eq!(rig.look(Patient, &heads), due);
    let sending = rig.take_seat(&heads[0]);
    assert_eq!(rig.look(Patient, &heads), due[1..], "an unproven lane has one seat");
    assert!(rig.memory.has_due(rig.present));
    drop(sending);
    assert_eq!(rig.look(Patient, &heads[1..]), due, "and is visited once that is free");
    assert_eq!(rig.look(Patient, &heads), due[1..], "until nothing is found there");
}

#[test]
fn with_few_lanes_nothing_is_searched_for_until_news_come_and_a_search_takes_a_part_of_the_time() {
    let mut rig = Rig::new();
    let heads = rig.heads(PART, rig.present + TimeDelta::hours(1));
    rig.know(&heads);
    rig.memory.next_part = rig.now + Duration::from_millis(9);
    assert!(rig.search(Patient).is_empty());
    assert_ne!(rig.memory.next_look(Patient, rig.now, rig.present), until(rig.memory.next_part));
    rig.memory.search_anew(rig.now);
    assert_eq!(rig.memory.next_look(Patient, rig.now, rig.present), until(rig.memory.next_part));
    assert_ne!(rig.memory.next_look(Prompt, rig.now, rig.present), until(rig.memory.next_part));
    rig.pass(Duration::from_millis(9));
    assert_eq!(rig.look(Patient, &heads).len(), PART);
    assert!(rig.memory.search.is_none(), "and ends");
}

#[test]
fn after_news_many_lanes_are_searched_at_once_and_news_that_come_meanwhile_begin_another_search() {
    let mut rig = Rig::new();
    let heads = rig.heads(3 * PART, rig.present + TimeDelta::hours(1));
    rig.know(&heads);
    assert!(rig.look(Patient, &heads).is_empty(), "the next search is not due yet");
    rig.memory.search_anew(rig.now);
    assert_eq!(rig.look(Patient, &heads), heads[..PART].iter().map(|head| head.lane).collect::<Vec<_>>());
    rig.memory.search_anew(rig.now);
    let mut looks = 0;
    while !rig.look(Patient, &heads).is_empty() {
        looks += 1;
    }
    assert_eq!(looks, 2 + 3, "the rest, and all of them once more");
}

#[test]
fn what_is_new_the_prompt_pace_claims_and_leaves_to_the_patient_one_what_is_too_much_or_not_due() {
    let mut rig = Rig::new();
    let later = rig.present + TimeDelta::hours(1);
    rig.know(&rig.heads(500, later));
    let mut new = rig.heads(UNPROVEN, rig.present);
    let search = rig.search(Prompt);
    assert!(search.known.is_empty() && search.made_since == rig.memory.made_since);
    assert!(!rig.learn(Prompt, &search, &new));
    assert!(!rig.memory.choose(Prompt, &mut new, &rig.seats));
    assert_eq!(new.len(), UNPROVEN);

    new.push(rig.head(1_000, rig.present));
    assert!(!rig.learn(Prompt, &search, &new));
    assert!(rig.memory.choose(Prompt, &mut new, &rig.seats), "one is left out");
    assert_eq!(new.len(), UNPROVEN);
    assert_eq!(rig.memory.next_look(Prompt, rig.now, rig.present), Round::Idle, "to which the other sees");
    assert_eq!(rig.look(Patient, &new).len(), UNPROVEN + 1);

    let gated = rig.head(1_001, later);
    assert!(rig.learn(Prompt, &search, std::slice::from_ref(&gated)), "somebody must wait for its gate");
    assert!(!rig.learn(Prompt, &search, &[gated]), "who knows of it now");
    let mut much_later = rig.head(100, later);
    much_later.first_at += TimeDelta::hours(1);
    rig.learn(Prompt, &search, std::slice::from_ref(&much_later));
    assert_eq!(
        rig.memory.lanes.get(much_later.lane).unwrap().due_at,
        Some(later),
        "what waits there already comes first"
    );
}

#[test]
fn a_new_lane_that_the_prompt_pace_finds_empty_is_visited_again_after_news() {
    let mut rig = Rig::new();
    rig.know(&rig.heads(500, rig.present + TimeDelta::hours(1)));
    let new = [rig.head(1_000, rig.present)];
    let search = rig.search(Prompt);
    assert!(!rig.learn(Prompt, &search, &new));
    assert!(!rig.memory.are_news_for_patient());
    rig.memory.are_empty(Prompt, &[new[0].lane], rig.now);
    for _ in 0..2 {
        assert!(rig.memory.are_news_for_patient(), "of an earlier webhook of its job, say");
        assert_eq!(rig.look(Patient, &new), [new[0].lane]);
        rig.memory.are_empty(Patient, &[new[0].lane], rig.now);
        rig.memory.pass_ends(Patient);
    }
}

#[test]
fn a_lane_passes_to_the_other_pace_with_its_health() {
    let mut rig = Rig::new();
    let mut heads = rig.heads(2, rig.present);
    rig.know(&heads);
    rig.memory.are_empty(Patient, &[heads[0].lane], rig.now);
    heads[0].health = LaneHealth::Proven;
    let search = rig.search(Patient);
    assert!(rig.learn(Patient, &search, &heads), "the prompt pace should look");
    let mut due = heads.clone();
    rig.memory.choose(Patient, &mut due, &rig.seats);
    assert_eq!(due, heads[1..], "who claims there");
    assert_eq!(rig.look(Prompt, &heads), [heads[0].lane]);
    assert!(!rig.learn(Patient, &search, &heads), "it knows of that");
}

#[test]
fn a_look_does_not_undo_what_was_told_since_it_began() {
    let mut rig = Rig::new();
    let heads = rig.heads(1, rig.present);
    rig.know(&heads);
    let search = rig.search(Patient);
    let began = rig.now;
    rig.pass(Duration::from_millis(1));
    let news = rig.search(Prompt);
    rig.learn(Prompt, &news, &heads);
    let none = rig.lanes(Vec::new());
    rig.memory.learn(Patient, &search, &none, began, rig.now);
    rig.memory.are_empty(Patient, &[heads[0].lane], began);
    assert!(rig.memory.has_due(rig.present));
    assert_eq!(rig.look(Patient, &heads), [heads[0].lane], "nor does a claim");
    let search = rig.search(Patient);
    rig.memory.learn(Patient, &search, &none, rig.now, rig.now);
    assert!(!rig.memory.has_due(rig.present), "a later look does");
}

#[test]
fn what_one_pace_frees_is_news_for_the_other_if_that_is_short_of_room_or_has_the_lane() {
    let mut rig = Rig::new();
    let heads = rig.heads(2, rig.present);
    rig.know(&heads);
    let freed = HashSet::from([heads[1].lane]);
    assert!(!rig.memory.are_freed(Patient, &freed, rig.now));
    assert!(rig.memory.are_freed(Prompt, &freed, rig.now), "the lane was proven when it got its seat");
    let elsewhere = HashSet::from([rig.head(9, rig.present).lane]);
    assert!(!rig.memory.are_freed(Prompt, &elsewhere, rig.now));
    let _sending = rig.take_seat(&heads[0]);
    rig.look(Patient, &[]);
    rig.memory.are_freed(Patient, &HashSet::from([heads[0].lane]), rig.now);
    rig.memory.next_part = rig.now + LOOK_AT_ALL;
    rig.search(Patient);
    assert!(rig.memory.are_freed(Prompt, &elsewhere, rig.now), "it found no room for the first");
}

#[test]
fn a_lane_whose_one_seat_is_taken_is_left_alone_until_word_of_it_comes() {
    let mut rig = Rig::new();
    let mut heads = rig.heads(500, rig.present);
    rig.know(&heads);
    let [first, second] = [heads[0].lane, heads[1].lane];
    heads.truncate(2);
    rig.memory.lanes.forget(|remembered| remembered.lane.lane > second);
    rig.memory.next_part = rig.now + LOOK_AT_ALL;
    rig.memory.search = None;
    rig.memory.begin_attempts([first].into_iter());
    assert_eq!(rig.look(Patient, &heads), [second]);
    let mut due = heads.clone();
    assert!(!rig.memory.choose(Prompt, &mut due, &rig.seats), "nothing is left to the other pace");
    assert_eq!(due, heads[1..]);
    rig.memory.are_freed(Patient, &HashSet::from([first]), rig.now);
    assert_eq!(rig.look(Patient, &heads), [first, second]);

    rig.memory.begin_attempts([first].into_iter());
    heads[0].health = LaneHealth::Proven;
    let search = rig.search(Prompt);
    rig.learn(Prompt, &search, &heads[..1]);
    assert_eq!(rig.look(Prompt, &heads), [first], "a proven lane has more seats");
}

/// Everything that a look visits, which finds these lanes due.
fn visit_all(rig: &mut Rig, heads: &[LaneHead]) -> Vec<Vec<LaneId>> {
    let mut visits = Vec::new();
    loop {
        let visited = rig.look(Patient, heads);
        let is_last = rig.memory.next_look(Patient, rig.now, rig.present) != Round::More;
        rig.memory.are_empty(Patient, &visited, rig.now);
        visits.push(visited);
        if is_last {
            return visits;
        }
    }
}

#[test]
fn few_unproven_lanes_are_visited_at_a_time_and_none_twice_before_the_loop_waits() {
    let mut rig = Rig::new();
    let count = 3 * PATIENT + 1;
    let heads = rig.heads(count, rig.present);
    rig.know(&heads);
    for _ in 0..2 {
        let visits = visit_all(&mut rig, &heads);
        assert!(visits.iter().all(|visited| visited.len() <= PATIENT), "{visits:?}");
        assert_eq!(visits.len(), count.div_ceil(PATIENT));
        let seen: HashSet<LaneId> = visits.into_iter().flatten().collect();
        assert_eq!(seen.len(), count);
        assert!(rig.look(Patient, &heads).is_empty(), "they are due, and wait for another dispatcher, say");
        rig.memory.pass_ends(Prompt);
        assert!(rig.look(Patient, &heads).is_empty(), "the other loop's waits say nothing");
        rig.memory.pass_ends(Patient);
        assert!(rig.memory.are_news_for_patient(), "they may have ended that wait");
    }
    rig.look(Patient, &[]);
    rig.memory.pass_ends(Patient);
    assert!(!rig.memory.are_news_for_patient(), "nothing is known to wait");
}

#[test]
fn a_new_unproven_lane_is_visited_before_those_that_were_empty() {
    let mut rig = Rig::new();
    let crowd = rig.heads(2 * PATIENT, rig.present);
    rig.know(&crowd);
    visit_all(&mut rig, &crowd);
    let new = rig.head(1_000, rig.present);
    let search = rig.search(Prompt);
    rig.learn(Prompt, &search, std::slice::from_ref(&new));
    rig.memory.pass_ends(Patient);
    assert!(rig.look(Patient, &crowd).contains(&new.lane));
}

#[test]
fn a_lane_that_was_never_tried_is_visited_before_those_that_failed() {
    let mut rig = Rig::new();
    let mut heads = rig.heads(2 * PATIENT, rig.present);
    for head in &mut heads {
        head.health = LaneHealth::Failing;
    }
    let new = rig.head(1_000, rig.present);
    heads.push(new.clone());
    rig.know(&heads);
    // Each look begins elsewhere.
    for _ in 0..10 {
        assert!(rig.look(Patient, &heads).contains(&new.lane));
    }
}

#[test]
fn the_unproven_lanes_of_a_client_leave_visits_to_those_of_others() {
    let mut rig = Rig::new();
    let crowd = rig.heads(2 * PATIENT, rig.present);
    rig.client = ClientId::generate();
    let other = rig.head(0, rig.present);
    let heads = [crowd, vec![other.clone()]].concat();
    rig.know(&heads);
    assert!(rig.look(Patient, &heads).contains(&other.lane));
    for (pace, at_most) in [(Patient, PATIENT), (Prompt, UNPROVEN)] {
        let search = rig.search(pace);
        rig.learn(pace, &search, &heads);
        let mut chosen = heads.clone();
        rig.memory.choose(pace, &mut chosen, &rig.seats);
        assert!(chosen.contains(&other) && chosen.len() == at_most, "nor does a claim take more than that");
    }
}

#[test]
fn a_client_with_very_many_proven_lanes_due_has_a_part_of_them_visited_in_each_look() {
    let mut rig = Rig::new();
    let mut crowd = rig.heads(PROVEN + 100, rig.present);
    rig.client = ClientId::generate();
    let mut other = rig.head(0, rig.present);
    crowd.iter_mut().chain([&mut other]).for_each(|head| head.health = LaneHealth::Proven);
    let heads = [crowd.clone(), vec![other.clone()]].concat();
    rig.know(&heads);
    let mut seen = HashSet::new();
    while seen.len() < crowd.len() {
        let visited = rig.look(Prompt, &heads);
        assert_eq!(visited.len(), PROVEN + 1);
        assert!(visited.contains(&other.lane), "others are always visited");
        seen.extend(visited.into_iter().filter(|lane| *lane != other.lane));
        assert_eq!(
            rig.memory.next_look(Prompt, rig.now, rig.present),
            Round::More,
            "the rest follows at once"
        );
    }
}

#[test]
fn proven_lanes_that_were_used_lately_and_have_nothing_to_claim_are_idle() {
    let mut rig = Rig::new();
    let mut heads = rig.heads(LATELY + 2, rig.present);
    heads[1..].iter_mut().for_each(|head| head.health = LaneHealth::Proven);
    let lanes: Vec<LaneId> = heads.iter().map(|head| head.lane).collect();
    let idle = |rig: &Rig| rig.memory.idle(rig.present).map(|idle| idle.lane.lane).collect::<Vec<_>>();
    rig.know(&heads);
    rig.look(Prompt, &[]);
    assert_eq!(idle(&rig), [], "none was used");
    rig.memory.begin_attempts(lanes[..3].iter().copied());
    rig.memory.begin_attempts([lanes[1]].into_iter());
    assert_eq!(idle(&rig), [lanes[1], lanes[2]], "the first is not proven");
    let search = rig.search(Prompt);
    rig.learn(Prompt, &search, &heads[1..2]);
    rig.memory.pass_ends(Prompt);
    assert_eq!(idle(&rig), [lanes[2]], "something is due");
    rig.memory.are_empty(Prompt, &lanes[1..2], rig.now);
    rig.memory.pass_ends(Prompt);
    assert_eq!(idle(&rig), lanes[1..3], "but waits for an earlier webhook of its job");
    rig.memory.pass_ends(Prompt);
    assert_eq!(idle(&rig), [lanes[2]], "as far as was known some time ago");
    rig.memory.begin_attempts(lanes[2..].iter().copied());
    assert_eq!(idle(&rig).len(), LATELY);
}
