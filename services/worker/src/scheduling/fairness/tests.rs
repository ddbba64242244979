//! Clients, users and priorities, one claim at a time.

use super::*;
use crate::scheduling::samples::{self, client, id, key};

const MODEL: &str = "a:latest";

fn group(number: u128, user: &str, priority: i16, lowest: i64) -> Group {
    Group { user: user.parse().unwrap(), priority, ..samples::group(MODEL, number, lowest) }
}

fn scanned(groups: &[Group], fairness: &mut Fairness) -> Backlog {
    let mut backlog = Backlog::default();
    backlog.scanned(groups.to_vec(), |client, user| fairness.user_had(client, user));
    let least = |client| Some((client, backlog.least(client, |_| true)?));
    let least: Vec<_> = backlog.clients().filter_map(least).collect();
    fairness.wait_from(&least);
    fairness.forget(&backlog);
    backlog
}

fn picking(limit: usize) -> Picking {
    Picking { first: None, only_first: false, limit, cost: 1.0, lowest_uncommitted: id(1_000) }
}

fn offers(fairness: &Fairness, backlog: &Backlog, picking: &Picking) -> Vec<Offer> {
    fairness.offers(backlog, &key(MODEL), |_| true, picking)
}

/// Client, user, priority and `at_most` of each offer.
fn shown(offers: &[Offer]) -> Vec<(ClientId, &str, i16, i32)> {
    offers.iter().map(|offer| (offer.client, offer.user.as_str(), offer.priority, offer.at_most)).collect()
}

/// Claims one job at a time, each for the time that its client's jobs take, and tells whose.
fn served(
    fairness: &mut Fairness,
    groups: &[Group],
    jobs: usize,
    cost: impl Fn(&Offer) -> f64,
) -> Vec<Offer> {
    let mut backlog = scanned(groups, fairness);
    let mut served = Vec::new();
    for _ in 0..jobs {
        let offer = offers(fairness, &backlog, &picking(1)).swap_remove(0);
        fairness.claimed(offer.client, &offer.user, 1.0, &mut backlog);
        fairness.ended(offer.client, &offer.user, cost(&offer) - 1.0, &mut backlog);
        served.push(offer);
    }
    served
}

fn count(served: &[Offer], number: u128) -> usize {
    served.iter().filter(|offer| offer.client == client(number)).count()
}

#[test]
fn clients_share_the_gpu_and_not_the_number_of_jobs() {
    let groups = [group(1, "", 9, 1), group(2, "", 0, 2)];
    let cost = |offer: &Offer| if offer.client == client(1) { 3.0 } else { 1.0 };
    let served = served(&mut Fairness::new(4), &groups, 40, cost);
    assert_eq!((count(&served, 1), count(&served, 2)), (10, 30));
}

#[test]
fn a_client_of_twice_the_weight_gets_twice_as_much() {
    let mut fairness = Fairness::new(4);
    let terms = ClientTerms { weight: 2.0, ..terms(1) };
    fairness.agreed(vec![terms]);
    let served = served(&mut fairness, &[group(1, "", 0, 1), group(2, "", 0, 2)], 30, |_| 1.0);
    assert_eq!((count(&served, 1), count(&served, 2)), (20, 10));
}

fn terms(number: u128) -> ClientTerms {
    ClientTerms { client: client(number), weight: 1.0, max_running: None, is_over_budget: false }
}

#[test]
fn a_client_past_its_budget_comes_last() {
    let mut fairness = Fairness::new(4);
    fairness.agreed(vec![ClientTerms { is_over_budget: true, ..terms(1) }]);
    let served = served(&mut fairness, &[group(1, "", 0, 1), group(2, "", 0, 2)], 10, |_| 1.0);
    assert_eq!((count(&served, 1), count(&served, 2)), (0, 10));
}

/// Client 2 is served alone for long, because something keeps client 1 back, and then client 3 comes.
fn shares_beside_one_that_is_kept_back(fairness: &mut Fairness) -> (usize, usize) {
    let groups = [group(1, "", 0, 1), group(2, "", 0, 2)];
    served(fairness, &groups, 100, |_| 1.0);
    scanned(&groups, fairness);
    let groups: Vec<Group> = (1..=3).map(|number| group(number, "", 0, 1)).collect();
    let served = served(fairness, &groups, 20, |_| 1.0);
    (count(&served, 2), count(&served, 3))
}

#[test]
fn whoever_comes_back_has_saved_nothing_up_beside_one_past_its_budget_or_at_its_ceiling() {
    let mut fairness = Fairness::new(4);
    fairness.agreed(vec![ClientTerms { is_over_budget: true, ..terms(1) }]);
    assert_eq!(shares_beside_one_that_is_kept_back(&mut fairness), (10, 10));

    let mut fairness = Fairness::new(4);
    fairness.agreed(vec![ClientTerms { max_running: Some(1), ..terms(1) }]);
    fairness.claimed(client(1), &UserName::default(), 1.0, &mut Backlog::default());
    assert_eq!(shares_beside_one_that_is_kept_back(&mut fairness), (10, 10));
}

#[test]
fn whoever_comes_back_has_saved_nothing_up_while_one_at_its_ceiling_was_alone() {
    let mut fairness = Fairness::new(4);
    fairness.agreed(vec![ClientTerms { max_running: Some(1), ..terms(1) }]);
    let mut backlog = Backlog::default();
    fairness.claimed(client(1), &UserName::default(), 100.0, &mut backlog);
    scanned(&[group(1, "", 0, 1)], &mut fairness);
    assert_eq!(fairness.standing(client(2)), fairness.standing(client(1)));
}

#[test]
fn whoever_is_new_comes_before_a_client_with_jobs_in_flight() {
    let mut fairness = Fairness::new(1);
    let old = group(1, "", 0, 1);
    fairness.claimed(old.client, &old.user, 1.0, &mut Backlog::default());
    scanned(std::slice::from_ref(&old), &mut fairness);
    let backlog = scanned(&[old, group(2, "", 0, 2)], &mut fairness);
    assert_eq!(fairness.standing(client(1)), fairness.standing(client(2)));
    let offers = offers(&fairness, &backlog, &picking(2));
    assert_eq!(offers.iter().map(|offer| offer.client).collect::<Vec<_>>(), [client(2), client(1)]);
}

#[test]
fn users_of_a_client_share_alike_and_take_nothing_from_another_client() {
    let groups = [group(1, "ada", 0, 1), group(1, "bob", 9, 2), group(2, "", 0, 3)];
    let served = served(&mut Fairness::new(4), &groups, 40, |_| 1.0);
    assert_eq!((count(&served, 1), count(&served, 2)), (20, 20));
    let of = |user: &str| served.iter().filter(|offer| offer.user.as_str() == user).count();
    assert_eq!((of("ada"), of("bob")), (10, 10));
}

#[test]
fn priority_decides_within_a_user_and_every_tenth_time_age() {
    let groups = [group(1, "", 5, 20), group(1, "", -5, 10)];
    let served = served(&mut Fairness::new(4), &groups, 20, |_| 1.0);
    let choices: Vec<i16> = served.iter().map(|offer| offer.priority).collect();
    let high = |priorities: &[i16]| priorities.iter().all(|priority| *priority == 5);
    assert!(high(&choices[..9]) && high(&choices[10..19]), "{choices:?}");
    assert_eq!((choices[9], choices[19]), (-5, -5));
}

#[test]
fn several_slots_are_shared_and_one_may_fill_what_another_leaves() {
    let (fairness, groups) =
        (&mut Fairness::new(4), [group(1, "", 5, 1), group(1, "", 0, 1), group(2, "", 0, 2)]);
    let backlog = scanned(&groups, fairness);
    let offers = offers(fairness, &backlog, &picking(3));
    let (one, two) = (client(1), client(2));
    assert_eq!(shown(&offers), [(one, "", 5, 2), (two, "", 0, 1), (one, "", 0, 3)]);
}

#[test]
fn a_client_at_its_ceiling_waits_and_a_claim_brings_no_more_than_its_room() {
    let mut fairness = Fairness::new(4);
    fairness.agreed(vec![ClientTerms { max_running: Some(2), ..terms(1) }]);
    let mut backlog = scanned(&[group(1, "", 0, 1), group(1, "", 1, 1), group(2, "", 0, 2)], &mut fairness);
    let in_all = |offers: &[Offer]| {
        offers.iter().filter(|offer| offer.client == client(1)).map(|offer| offer.at_most).sum::<i32>()
    };
    assert_eq!(in_all(&offers(&fairness, &backlog, &picking(8))), 2);
    fairness.claimed(client(1), &UserName::default(), 0.0, &mut backlog);
    assert_eq!(in_all(&offers(&fairness, &backlog, &picking(8))), 1);
    fairness.claimed(client(1), &UserName::default(), 0.0, &mut backlog);
    assert_eq!(in_all(&offers(&fairness, &backlog, &picking(8))), 0);
    assert!(!fairness.may_run_more(client(1)) && fairness.may_run_more(client(2)));
    fairness.ended(client(1), &UserName::default(), 0.0, &mut backlog);
    assert!(fairness.may_run_more(client(1)));
}

#[test]
fn a_ceiling_that_the_slots_keep_anyway_takes_nothing_from_a_weight() {
    let mut fairness = Fairness::new(2);
    fairness.agreed(vec![ClientTerms { max_running: Some(2), weight: 100.0, ..terms(1) }]);
    let mut backlog = scanned(&[group(1, "", 0, 1), group(2, "", 0, 2)], &mut fairness);
    // Two run, and the third is held until a slot is free.
    for number in [1, 2, 1] {
        fairness.claimed(client(number), &UserName::default(), 1.0, &mut backlog);
    }
    assert_eq!(offers(&fairness, &backlog, &picking(1))[0].client, client(1));
    assert_eq!(fairness.held_back(client(1), [client(2)].into_iter()), None);
}

#[test]
fn a_claim_for_the_turn_of_a_client_offers_its_job_first_and_then_who_has_had_least() {
    let mut fairness = Fairness::new(4);
    let groups: Vec<Group> = (1..=3).map(|number| group(number, "", 0, 1)).collect();
    let mut backlog = scanned(&groups, &mut fairness);
    for (number, cost) in [(1, 9.0), (2, 5.0)] {
        fairness.claimed(client(number), &UserName::default(), cost, &mut backlog);
    }
    let picking = Picking { first: Some(client(1)), ..picking(3) };
    let order: Vec<_> = offers(&fairness, &backlog, &picking).iter().map(|offer| offer.client).collect();
    assert_eq!(order[..2], [1, 3].map(client));
}

#[test]
fn bounds_stay_below_what_may_still_commit() {
    let fairness = &mut Fairness::new(4);
    let backlog = scanned(&[group(1, "", 0, 5), group(2, "", 0, 50)], fairness);
    let picking = Picking { lowest_uncommitted: id(20), ..picking(2) };
    let bounds: Vec<JobId> =
        offers(fairness, &backlog, &picking).iter().map(|offer| offer.lower_bound).collect();
    assert_eq!(bounds, [id(5), id(20)]);
}

#[test]
fn of_many_users_who_wait_all_are_served() {
    const USERS: usize = 6_000;
    let mut fairness = Fairness::new(1);
    let groups: Vec<Group> = (0..USERS).map(|user| group(1, &user.to_string(), 0, 1)).collect();
    let (mut served, mut backlog) = (vec![0; USERS], scanned(&groups, &mut fairness));
    for turn in 0..2 * USERS {
        if turn % 500 == 0 {
            backlog = scanned(&groups, &mut fairness);
        }
        let offer = offers(&fairness, &backlog, &picking(1)).swap_remove(0);
        served[offer.user.as_str().parse::<usize>().unwrap()] += 1;
        fairness.claimed(client(1), &offer.user, 0.5 + (turn * 7 % 10) as f64 / 10.0, &mut backlog);
    }
    assert!(served.iter().all(|turns| (1..=5).contains(turns)), "{:?}", served.iter().max());
}

#[test]
fn users_without_end_are_not_kept() {
    let mut fairness = Fairness::new(1);
    for user in 0..20_000 {
        // Another user always waits, so nobody has had more than nothing at the least.
        let groups = [group(1, &user.to_string(), 0, 1), group(1, "another", 0, 1)];
        let mut backlog = scanned(&groups, &mut fairness);
        fairness.claimed(client(1), &groups[0].user, 1.0, &mut backlog);
        fairness.ended(client(1), &groups[0].user, 0.0, &mut backlog);
    }
    assert!(fairness.members[&client(1)].users.len() <= 4_097);
}

#[test]
fn a_claim_makes_few_offers_however_many_users_wait() {
    let mut fairness = Fairness::new(4);
    let groups: Vec<Group> = (0..10_000).map(|user| group(1, &user.to_string(), 0, 1)).collect();
    let backlog = scanned(&groups, &mut fairness);
    assert_eq!(offers(&fairness, &backlog, &picking(2)).len(), 2 + SPARE_OFFERS);
}
