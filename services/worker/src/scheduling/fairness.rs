//! Who is served next: clients share the GPU by their weights, the users of a client share a runner alike, and a user's
//! jobs go by priority. Decided at each claim, from the GPU time that each has had. A restart forgets that: everybody begins
//! anew. Pure.

mod picks;

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};
use std::sync::Arc;

use foreman_store::{ClientId, ClientTerms, HeldBack, JobId, Offer, UserName};

use super::backlog::{Backlog, Group};
use super::key::Key;
use super::shares::{Had, Shares};
use picks::Picks;

/// Among one user's jobs the highest priority goes first. Every tenth time the oldest job goes first, so that no
/// priority starves.
const OLDEST_EVERY: u32 = 10;

/// A claim has this many more offers than jobs that it may bring, for the case that groups have become empty
/// meanwhile. Each offer costs one look into the index.
const SPARE_OFFERS: usize = 16;

/// With more clients than this, forget those that have no ready job now.
const MAX_CLIENTS: usize = 4_096;

#[derive(Debug, Clone)]
pub(crate) struct Fairness {
    /// How many jobs the host runs at the same time.
    slots: usize,
    clients: Shares<ClientId>,
    members: HashMap<ClientId, Members>,
    terms: HashMap<ClientId, ClientTerms>,
}

/// What is known of one client.
#[derive(Debug, Clone, Default)]
struct Members {
    users: Shares<UserName>,
    /// How many jobs of each waiting user were claimed.
    claims: HashMap<UserName, u32>,
    /// How many jobs of the client are claimed and have not ended.
    in_flight: usize,
}

/// How a client stands in the line of clients. The least comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Standing {
    /// Whether it has had its budget of the day. Then it comes after all others.
    pub(crate) is_over_budget: bool,
    had: Had,
}

/// What a claim is to bring.
#[derive(Debug)]
pub(crate) struct Picking {
    /// The client whose turn the claim is for. Its first job is offered before all others.
    pub(crate) first: Option<ClientId>,
    /// No jobs of others are offered.
    pub(crate) only_first: bool,
    pub(crate) limit: usize,
    /// The GPU-seconds that a job probably takes.
    pub(crate) cost: f64,
    /// The lowest id that a job not yet committed may have. No lower bound may lie above it.
    pub(crate) lowest_uncommitted: JobId,
}

impl Fairness {
    pub(crate) fn new(slots: usize) -> Self {
        Self { slots, clients: Shares::default(), members: HashMap::new(), terms: HashMap::new() }
    }

    /// These clients have terms of their own. All others have a weight of 1, and neither a ceiling nor a budget.
    pub(crate) fn agreed(&mut self, terms: Vec<ClientTerms>) {
        self.terms = terms.into_iter().map(|terms| (terms.client, terms)).collect();
    }

    /// What a user has had of its client's share.
    pub(crate) fn user_had(&self, client: ClientId, user: &UserName) -> Had {
        self.members.get(&client).map_or_else(Had::default, |members| members.users.had(user))
    }

    pub(crate) fn standing(&self, client: ClientId) -> Standing {
        let is_over_budget = self.terms.get(&client).is_some_and(|terms| terms.is_over_budget);
        Standing { is_over_budget, had: self.clients.had(&client) }
    }

    /// Whether the client may have another job in flight.
    pub(crate) fn may_run_more(&self, client: ClientId) -> bool {
        self.room(client) > 0
    }

    /// What keeps this client back while `others` wait too: its ceiling, or its budget.
    pub(crate) fn held_back(
        &self,
        client: ClientId,
        mut others: impl Iterator<Item = ClientId>,
    ) -> Option<HeldBack> {
        let terms = self.terms.get(&client)?;
        if !self.may_run_more(client) {
            return terms.max_running.map(HeldBack::AtCeiling);
        }
        let goes_last = terms.is_over_budget && others.any(|other| !self.standing(other).is_over_budget);
        goes_last.then_some(HeldBack::OverBudget)
    }

    /// How many jobs more of the client may be claimed. A job that is held ahead of its slot counts, so a ceiling that is not
    /// below the number of slots is ignored.
    fn room(&self, client: ClientId) -> usize {
        let ceiling = self.terms.get(&client).and_then(|terms| terms.max_running).map(|most| most as usize);
        let in_flight = self.in_flight(client);
        ceiling.filter(|most| *most < self.slots).map_or(usize::MAX, |most| most.saturating_sub(in_flight))
    }

    fn in_flight(&self, client: ClientId) -> usize {
        self.members.get(&client).map_or(0, |members| members.in_flight)
    }

    /// The host serves ready jobs of these clients, each with the least that a user of such a job has had.
    ///
    /// Who is not served now does not count for the least that others are held to, though it may have had less: otherwise
    /// whoever comes back meanwhile would have saved up all the time since.
    pub(crate) fn wait_from(&mut self, least: &[(ClientId, Had)]) {
        let clients = || least.iter().map(|(client, _)| *client);
        let place = |client| (!self.may_run_more(client), self.standing(client).is_over_budget);
        if let Some(first) = clients().map(place).min() {
            let served = clients().filter(|client| place(*client) == first);
            if let Some(had) = served.map(|client| self.clients.had(&client)).min() {
                self.clients.wait_from(had);
            }
        }
        for (client, had) in least {
            if let Some(members) = self.members.get_mut(client) {
                members.users.wait_from(*had);
            }
        }
    }

    /// A scan has found who waits. Whoever does not is forgotten, as far as that is due.
    pub(crate) fn forget(&mut self, backlog: &Backlog) {
        let ready: BTreeSet<ClientId> = backlog.clients().collect();
        self.clients.forget(|client| ready.contains(client));
        for client in &ready {
            if let Some(members) = self.members.get_mut(client) {
                members.users.forget(|user| backlog.has(*client, user));
                members.claims.retain(|user, _| backlog.has(*client, user));
            }
        }
        if self.members.len() > MAX_CLIENTS {
            self.members.retain(|client, members| members.in_flight > 0 || ready.contains(client));
        }
    }

    /// A job of this client and user was claimed. It will probably take so many GPU-seconds.
    pub(crate) fn claimed(&mut self, client: ClientId, user: &UserName, cost: f64, backlog: &mut Backlog) {
        let members = self.members.entry(client).or_default();
        members.in_flight += 1;
        *members.claims.entry(user.clone()).or_default() += 1;
        self.charge(client, user, cost, backlog);
    }

    /// A claimed job has ended, or was handed back. It has had so many GPU-seconds more than its claim charged.
    pub(crate) fn ended(&mut self, client: ClientId, user: &UserName, more: f64, backlog: &mut Backlog) {
        if let Some(members) = self.members.get_mut(&client) {
            members.in_flight = members.in_flight.saturating_sub(1);
        }
        self.charge(client, user, more, backlog);
    }

    /// A load has taken so many seconds of the GPU. It was made for this client, and for this user of it if it alone waited.
    pub(crate) fn loaded(
        &mut self,
        client: ClientId,
        user: Option<&UserName>,
        seconds: f64,
        backlog: &mut Backlog,
    ) {
        match user {
            Some(user) => self.charge(client, user, seconds, backlog),
            None => self.clients.charge(&client, seconds, self.weight(client)),
        }
    }

    /// How many turns these clients may have between two claims of a client of weight 1: each one to catch up, as many
    /// as its weight, and one beyond.
    pub(crate) fn turns_of_others<'a>(&self, clients: impl Iterator<Item = &'a ClientId>) -> f64 {
        let turns: Vec<f64> = clients.map(|client| 1.0 + self.weight(*client)).collect();
        turns.iter().sum::<f64>() - turns.iter().copied().reduce(f64::min).unwrap_or_default()
    }

    fn charge(&mut self, client: ClientId, user: &UserName, gpu_seconds: f64, backlog: &mut Backlog) {
        self.clients.charge(&client, gpu_seconds, self.weight(client));
        let members = self.members.entry(client).or_default();
        members.users.charge(user, gpu_seconds, 1.0);
        backlog.moved(client, user, members.users.had(user));
    }

    pub(crate) fn weight(&self, client: ClientId) -> f64 {
        self.terms.get(&client).map_or(1.0, |terms| terms.weight)
    }

    /// The offers of a claim, in the order in which their jobs are to be taken.
    ///
    /// `base` is the load key of the runner without its context, and `serves` tells whether the runner serves jobs of a
    /// load key.
    pub(crate) fn offers(
        &self,
        backlog: &Backlog,
        base: &Key,
        serves: impl Fn(&Key) -> bool,
        picking: &Picking,
    ) -> Vec<Offer> {
        // Whoever is new has had as much as the least of the others, and goes before them, because it has nothing in flight.
        let mut line: BinaryHeap<Reverse<(bool, Standing, usize, ClientId)>> = BinaryHeap::new();
        let mut picks: HashMap<ClientId, Picks<'_, _>> = HashMap::new();
        for (client, queue) in backlog.clients_of(base) {
            let is_asked = !picking.only_first || Some(client) == picking.first;
            if is_asked && self.may_run_more(client) && queue.keys().any(&serves) {
                let (is_first, in_flight) = (Some(client) == picking.first, self.in_flight(client));
                line.push(Reverse((!is_first, self.standing(client), in_flight, client)));
                let claims = self.members.get(&client).map(|members| &members.claims);
                picks.insert(client, Picks::new(queue, claims, self.room(client), &serves));
            }
        }
        let mut offers: Vec<Offer> = Vec::new();
        // First each job that the claim is meant to bring, one after the other.
        for _ in 0..picking.limit {
            let Some(Reverse((_, standing, in_flight, client))) = line.pop() else { break };
            let Some(group) = picks.get_mut(&client).and_then(|picks| picks.next(picking)) else { continue };
            match offers.iter_mut().find(|offer| group.is_in(offer)) {
                Some(offer) => offer.at_most += 1,
                None => offers.push(offer(group, 1, picking)),
            }
            let had = standing.had.and(picking.cost, self.weight(client));
            line.push(Reverse((true, Standing { had, ..standing }, in_flight + 1, client)));
        }
        // Then other groups, in case that some of these have fewer jobs than that. Not for a client with a ceiling: the
        // claim could bring too many of its jobs.
        line.retain(|Reverse((.., client))| self.room(*client) == usize::MAX);
        let mut order: Vec<ClientId> =
            line.into_sorted_vec().into_iter().rev().map(|Reverse((.., client))| client).collect();
        let most = offers.len() + SPARE_OFFERS;
        while offers.len() < most && !order.is_empty() {
            order.retain(|client| {
                if offers.len() >= most {
                    return false;
                }
                let Some(group) = picks.get_mut(client).and_then(|picks| picks.spare()) else {
                    return false;
                };
                if !offers.iter().any(|offer| group.is_in(offer)) {
                    offers.push(offer(group, picking.limit, picking));
                }
                true
            });
        }
        offers
    }
}

fn offer(group: &Group, limit: usize, picking: &Picking) -> Offer {
    Offer {
        load_key: Arc::from(group.key.as_str()),
        client: group.client,
        user: group.user.clone(),
        priority: group.priority,
        sync: group.sync,
        lower_bound: group.lowest.min(picking.lowest_uncommitted),
        at_most: i32::try_from(limit).unwrap_or(i32::MAX),
    }
}

#[cfg(test)]
mod tests {
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
        offers
            .iter()
            .map(|offer| (offer.client, offer.user.as_str(), offer.priority, offer.at_most))
            .collect()
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
        let mut backlog =
            scanned(&[group(1, "", 0, 1), group(1, "", 1, 1), group(2, "", 0, 2)], &mut fairness);
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
}
