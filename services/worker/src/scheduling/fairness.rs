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
mod tests;
