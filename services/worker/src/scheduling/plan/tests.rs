//! What the plan adds to the parts that it asks. The parts have tests of their own.

use super::*;
use crate::scheduling::samples::{self, client, id, key, turns};
use crate::scheduling::shares::Had;

const ONE: &str = "one:latest";
const TWO: &str = "two:latest";
const CLOUD: &str = "far:120b-cloud";
const OTHER_CLOUD: &str = "wide:480b-cloud";

const NO_FREE_SLOT: Capacity = Capacity { free_slots: 0, holds_job: false };
const ONE_FREE_SLOT: Capacity = Capacity { free_slots: 1, holds_job: false };
const TWO_FREE_SLOTS: Capacity = Capacity { free_slots: 2, holds_job: false };

fn lowest() -> JobId {
    id(0)
}

/// Client 1 has ready jobs of each of these keys.
fn ready(keys: &[&str]) -> Vec<Group> {
    keys.iter().map(|text| group(text, 1)).collect()
}

fn group(text: &str, number: u128) -> Group {
    samples::group(text, number, 0)
}

/// A plan in which client 1 has ready jobs of each of these keys. The host has all of their models.
fn plan(keys: &[&str]) -> Plan {
    let mut plan = Plan::new(&turns(), 2);
    plan.published(keys.iter().map(|text| key(text).model().clone()).collect());
    plan.scanned(ready(keys), Instant::now());
    plan
}

fn stay(text: &str) -> Next<ClientId, Key> {
    Next::Stay(key(text))
}

/// The next order where every GPU key must be loaded first.
fn order(plan: &mut Plan, next: Next<ClientId, Key>, capacity: Capacity) -> Option<Order> {
    plan.order(next, capacity, |_, runs_on| runs_on == RunsOn::Cloud, lowest(), Instant::now())
}

/// The next order where the GPU key is resident.
fn order_resident(plan: &mut Plan, next: Next<ClientId, Key>, capacity: Capacity) -> Option<Order> {
    plan.order(next, capacity, |_, _| true, lowest(), Instant::now())
}

#[test]
fn gpu_and_cloud_take_turns_and_so_do_the_keys_of_the_cloud() {
    let mut plan = plan(&[ONE, CLOUD, OTHER_CLOUD]);
    let keys: Vec<Key> =
        (0..5).map(|_| order(&mut plan, stay(ONE), TWO_FREE_SLOTS).expect("both have work").runner).collect();
    assert_eq!(keys, [ONE, CLOUD, ONE, OTHER_CLOUD, ONE].map(key));
}

#[test]
fn the_cloud_goes_on_while_the_gpu_waits_for_its_next_turn() {
    let mut plan = plan(&[ONE, CLOUD]);
    for _ in 0..3 {
        let order = order(&mut plan, Next::WaitForIdle, TWO_FREE_SLOTS).unwrap();
        assert_eq!(order.runner, key(CLOUD));
    }
}

#[test]
fn one_job_is_held_ahead_only_where_runs_take_less_than_1_s() {
    let held_ahead_of = |run: Option<u64>| {
        let mut plan = plan(&[ONE]);
        if let Some(run) = run {
            plan.ran(&key(ONE), Duration::from_millis(run), 0.1);
        }
        order_resident(&mut plan, stay(ONE), NO_FREE_SLOT).map(|order| (order.limit, order.permit))
    };
    assert_eq!(held_ahead_of(None), None, "nobody knows how long its runs are");
    assert_eq!(held_ahead_of(Some(1)), Some((1, Permit::SendAhead)));
    assert_eq!(held_ahead_of(Some(999)), Some((1, Permit::SendAhead)));
    assert_eq!(held_ahead_of(Some(1_000)), None);
}

#[test]
fn no_job_is_held_ahead_beside_a_held_one_or_for_another_turn() {
    let mut plan = plan(&[ONE]);
    plan.ran(&key(ONE), Duration::from_millis(100), 0.1);
    let beside_held = Capacity { holds_job: true, ..NO_FREE_SLOT };
    assert!(order_resident(&mut plan, stay(ONE), beside_held).is_none());
    let switch = Next::Switch { client: client(1), key: key(ONE) };
    assert!(order_resident(&mut plan, switch, NO_FREE_SLOT).is_none());
    assert!(order_resident(&mut plan, stay(ONE), NO_FREE_SLOT).is_some());
}

#[test]
fn no_gpu_job_is_held_ahead_while_the_cloud_is_next() {
    let mut plan = plan(&[ONE, CLOUD]);
    plan.ran(&key(ONE), Duration::from_millis(100), 0.1);
    assert!(order_resident(&mut plan, stay(ONE), NO_FREE_SLOT).is_some_and(|order| order.runner == key(ONE)));
    assert!(order_resident(&mut plan, stay(ONE), NO_FREE_SLOT).is_none(), "the free slot is for the cloud");
    assert!(
        order_resident(&mut plan, stay(ONE), TWO_FREE_SLOTS).is_some_and(|order| order.runner == key(CLOUD))
    );
}

#[test]
fn a_claim_lets_its_jobs_begin_only_if_nothing_must_be_loaded() {
    let mut plan = plan(&[ONE]);
    let shown = |order: Option<Order>| order.map(|order| (order.limit, order.permit));
    assert_eq!(shown(order_resident(&mut plan, stay(ONE), TWO_FREE_SLOTS)), Some((2, Permit::Begun)));
    assert_eq!(shown(order(&mut plan, stay(ONE), TWO_FREE_SLOTS)), Some((2, Permit::Ask)));
    let beside_held = Capacity { holds_job: true, ..TWO_FREE_SLOTS };
    assert_eq!(shown(order_resident(&mut plan, stay(ONE), beside_held)), Some((2, Permit::SendAhead)));
}

#[test]
fn a_key_whose_model_the_host_lacks_is_not_ordered() {
    let mut plan = plan(&[TWO]);
    plan.scanned(ready(&[ONE, TWO, CLOUD]), Instant::now());
    let ordered = |plan: &mut Plan| {
        let next = plan.next(std::iter::empty(), false, Instant::now());
        order(plan, next, TWO_FREE_SLOTS).map(|order| order.runner)
    };
    assert_eq!(ordered(&mut plan), Some(key(TWO)));
    assert_eq!(ordered(&mut plan), Some(key(TWO)), "not the cloud key either");
    plan.missed(&key(TWO));
    assert_eq!(ordered(&mut plan), None);
    assert!(!plan.work_waits());
}

#[test]
fn a_key_that_has_only_held_jobs_left_keeps_its_turn_but_is_not_ordered() {
    let mut plan = plan(&[ONE]);
    plan.scanned(Vec::new(), Instant::now());
    let next = plan.next([(client(1), key(ONE))].into_iter(), false, Instant::now());
    assert_eq!(next, Next::Switch { client: client(1), key: key(ONE) });
    assert!(order(&mut plan, next, TWO_FREE_SLOTS).is_none());
}

#[test]
fn a_switch_offers_the_jobs_of_its_own_client_first() {
    let mut plan = plan(&[ONE]);
    plan.scanned(vec![group(ONE, 1), group(ONE, 2)], Instant::now());
    for number in [1, 2] {
        let switch = Next::Switch { client: client(number), key: key(ONE) };
        let order = order(&mut plan, switch.clone(), TWO_FREE_SLOTS).unwrap();
        assert!(
            order.offers.iter().all(|offer| offer.client == client(number)),
            "others come after the load"
        );
        let order = order_resident(&mut plan, switch, TWO_FREE_SLOTS).unwrap();
        let offered: Vec<ClientId> = order.offers.iter().map(|offer| offer.client).collect();
        assert!(offered[0] == client(number) && offered.len() == 2, "{offered:?}");
    }
}

#[test]
fn one_claim_takes_the_jobs_of_every_context_that_the_runner_serves() {
    let (short, long, any) = ("one:latest num_ctx=512", "one:latest num_ctx=9000", "one:latest num_ctx=any");
    let mut plan = plan(&[short, long, any]);
    plan.has_context(&key(ONE), 4_096);
    let offered = |plan: &mut Plan| {
        let next = plan.next(std::iter::empty(), false, Instant::now());
        let order = order(plan, next, TWO_FREE_SLOTS).unwrap();
        let mut keys: Vec<String> = order.offers.iter().map(|offer| offer.load_key.to_string()).collect();
        keys.sort();
        (order.runner.to_string(), keys)
    };
    let all = [short, long, any].map(str::to_owned);
    assert_eq!(offered(&mut plan), ("one:latest num_ctx=16384".to_owned(), all.to_vec()));
    plan.scanned(ready(&[short, any]), Instant::now());
    assert_eq!(offered(&mut plan), (ONE.to_owned(), vec![short.to_owned(), any.to_owned()]));
}

#[test]
fn a_load_is_charged_to_the_client_that_it_was_for() {
    let mut plan = plan(&[ONE]);
    plan.scanned(vec![group(ONE, 1), group(ONE, 2)], Instant::now());
    let now = Instant::now();
    let next = plan.next(std::iter::empty(), false, now);
    let order = order(&mut plan, next, TWO_FREE_SLOTS).unwrap();
    let first = order.offers[0].client;
    plan.rotation.claimed(first, || None, &order.runner, now);
    let other = client(if first == client(1) { 2 } else { 1 });
    plan.charge_load(&order.runner, Duration::from_secs(7));
    assert!(plan.work.fairness.standing(other) < plan.work.fairness.standing(first));
}

/// Claims a job of [`ONE`] so many times, each for a second of the GPU, and tells whose.
fn served(plan: &mut Plan, groups: &[Group], jobs: usize) -> Vec<(ClientId, UserName)> {
    let mut served = Vec::new();
    for _ in 0..jobs {
        plan.scanned(groups.to_vec(), Instant::now());
        let order = order_resident(plan, stay(ONE), ONE_FREE_SLOT).unwrap();
        let Offer { client, user, .. } = order.offers[0].clone();
        served.push((client, user.clone()));
        let brought = Brought { job: id(1), offer: Some(0), client, user };
        let charges = plan.brought(&order, vec![brought], Instant::now());
        charges.iter().for_each(|charge| plan.ended(charge, 1.0));
    }
    served
}

#[test]
fn whoever_comes_back_has_saved_nothing_up_beside_jobs_that_this_host_does_not_run() {
    let mut plan = plan(&[ONE, CLOUD]);
    let elsewhere = [group(TWO, 1), group(CLOUD, 4)];
    served(&mut plan, &[&elsewhere[..], &[group(ONE, 2)]].concat(), 100);
    let served = served(&mut plan, &[&elsewhere[..], &[group(ONE, 2), group(ONE, 3)]].concat(), 20);
    let count = |number| served.iter().filter(|(whose, _)| *whose == client(number)).count();
    assert_eq!((count(2), count(3), count(4)), (5, 5, 10), "GPU and cloud take turns");
}

#[test]
fn a_user_that_comes_back_has_saved_nothing_up_beside_jobs_that_this_host_does_not_run() {
    let mut plan = plan(&[ONE]);
    let of = |text, user: &str| Group { user: user.parse().unwrap(), ..group(text, 1) };
    served(&mut plan, &[of(TWO, "ada"), of(ONE, "bob")], 100);
    let served = served(&mut plan, &[of(TWO, "ada"), of(ONE, "bob"), of(ONE, "cleo")], 20);
    assert_eq!(served.iter().filter(|(_, user)| user.as_str() == "bob").count(), 10);
}

#[test]
fn a_load_is_charged_to_the_user_that_alone_waited_for_it() {
    let of = |text, user: &str| Group { user: user.parse().unwrap(), ..group(text, 1) };
    let had = |waiting: &[Group]| {
        let mut plan = plan(&[ONE]);
        plan.scanned(waiting.to_vec(), Instant::now());
        let next = plan.next(std::iter::empty(), false, Instant::now());
        let order = order(&mut plan, next, TWO_FREE_SLOTS).unwrap();
        let Offer { client, user, .. } = order.offers[0].clone();
        let brought = Brought { job: id(1), offer: Some(0), client, user: user.clone() };
        let charges = plan.brought(&order, vec![brought], Instant::now());
        charges.iter().for_each(|charge| plan.ended(charge, 0.0));
        plan.charge_load(&order.runner, Duration::from_secs(7));
        plan.work.fairness.user_had(client, &user)
    };
    assert_eq!(had(&[of(ONE, "ada")]), Had::default().and(7.0, 1.0));
    assert_eq!(had(&[of(ONE, "ada"), of(ONE, "bob")]), Had::default());
}

mod cost;
mod in_virtual_time;
mod several_hosts;
