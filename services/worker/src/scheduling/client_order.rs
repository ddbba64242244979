//! The order of clients within a load key. Clients take turns, however many jobs each of them has queued. Pure.
//!
//! This file and the line of clients in `rotation.rs` decide the fair order. A scheduler that charges GPU time to
//! clients changes both: it remembers how much GPU time each client has had, and the client with the least goes
//! first.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use foreman_store::{ClientId, JobId, Offer};

use super::backlog::Group;

/// Among one client's jobs the highest priority goes first, and a sync call before another job of the same priority. Every tenth time the oldest job goes first, so that no
/// priority starves.
const OLDEST_EVERY: u64 = 10;

/// With more clients than this, forget those that have no ready job now.
const MAX_CLIENTS: usize = 4_096;

/// The most offers in a claim for few slots. Each offer costs one look into the index. Groups that get no offer have
/// a chance with the next claim.
const MAX_OFFERS: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct ClientOrder {
    /// How many jobs were claimed so far. It serves as the time of [`Served::last`].
    served: u64,
    clients: HashMap<ClientId, Served>,
}

#[derive(Debug, Clone, Copy)]
struct Served {
    /// When a job of the client was last claimed. For a client without one, when it was first seen: newcomers line up
    /// at the end.
    last: u64,
    /// How many jobs of the client were claimed.
    times: u64,
    /// How long the client's jobs have run in total.
    run_time: Duration,
}

impl Served {
    fn newcomer(last: u64) -> Self {
        Self { last, times: 0, run_time: Duration::ZERO }
    }
}

impl ClientOrder {
    /// Makes the offers for a claim of at most `limit` jobs from these groups of one load key. The claim takes jobs in the
    /// order of the offers. If the claim is for the turn of the client `first`, that client's offers come first. No
    /// lower bound may lie above `lowest_uncommitted`, the lowest id that a job not yet committed may have.
    pub(crate) fn offers(
        &mut self,
        load_key: &str,
        groups: &[Group],
        first: Option<ClientId>,
        limit: usize,
        lowest_uncommitted: JobId,
    ) -> Vec<Offer> {
        self.note(groups);
        let mut clients: Vec<(ClientId, Vec<&Group>)> = groups
            .chunk_by(|one, other| one.client == other.client)
            .map(|groups| (groups[0].client, groups.iter().collect()))
            .collect();
        clients.sort_by_key(|(client, _)| {
            let served = self.served_of(*client);
            (Some(*client) != first, served.last, served.run_time, *client)
        });
        for (client, groups) in &mut clients {
            if self.served_of(*client).times % OLDEST_EVERY == OLDEST_EVERY - 1 {
                groups.sort_by_key(|group| group.lowest);
            } else {
                groups.sort_by_key(|group| (Reverse(group.priority), Reverse(group.sync), group.lowest));
            }
        }
        let load_key: Arc<str> = load_key.into();
        let share = limit.div_ceil(clients.len().max(1));
        // First each client's first choice, for its share of the claim. Then all other groups, to fill the rest of
        // the claim.
        let first = clients.iter().map(|(_, groups)| (groups[0], share));
        let rest = clients.iter().flat_map(|(_, groups)| groups[1..].iter().map(|group| (*group, limit)));
        first
            .chain(rest)
            .take(MAX_OFFERS.max(limit))
            .map(|(group, at_most)| Offer {
                load_key: Arc::clone(&load_key),
                client: group.client,
                user: group.user.clone(),
                priority: group.priority,
                sync: group.sync,
                lower_bound: group.lowest.min(lowest_uncommitted),
                at_most: i32::try_from(at_most).unwrap_or(i32::MAX),
            })
            .collect()
    }

    /// A job of this client was claimed.
    pub(crate) fn served(&mut self, client: ClientId) {
        self.served += 1;
        let last = self.served;
        let served = self.clients.entry(client).or_insert(Served::newcomer(last));
        *served = Served { last, times: served.times + 1, ..*served };
    }

    /// A job of this client has run for this long.
    pub(crate) fn ran(&mut self, client: ClientId, took: Duration) {
        if let Some(served) = self.clients.get_mut(&client) {
            served.run_time += took;
        }
    }

    fn served_of(&self, client: ClientId) -> Served {
        self.clients.get(&client).copied().unwrap_or(Served::newcomer(self.served))
    }

    fn note(&mut self, groups: &[Group]) {
        if self.clients.len() > MAX_CLIENTS {
            let waiting: Vec<_> = groups.iter().map(|group| group.client).collect();
            self.clients.retain(|client, _| waiting.binary_search(client).is_ok());
        }
        let newcomer = Served::newcomer(self.served);
        for group in groups {
            self.clients.entry(group.client).or_insert(newcomer);
        }
    }
}

#[cfg(test)]
mod tests {
    use foreman_store::{UserName, ulid_floor};
    use proptest::prelude::*;

    use super::*;

    fn id(number: i64) -> JobId {
        ulid_floor(chrono::DateTime::from_timestamp_millis(number).unwrap())
    }

    fn group(client: u128, priority: i16, lowest: i64) -> Group {
        let (client, user) = (ClientId::from_ulid(client.into()), UserName::default());
        Group { client, user, priority, sync: false, lowest: id(lowest) }
    }

    /// Client, priority and `at_most` of each offer.
    fn offers(order: &mut ClientOrder, groups: &[Group], limit: usize) -> Vec<(ClientId, i16, i32)> {
        let offers = order.offers("a", groups, None, limit, id(1_000));
        offers.into_iter().map(|offer| (offer.client, offer.priority, offer.at_most)).collect()
    }

    #[test]
    fn clients_alternate_however_much_one_of_them_has() {
        let mut order = ClientOrder::default();
        let groups = [group(1, 9, 1), group(2, 0, 2)];
        let served: Vec<ClientId> = (0..6)
            .map(|_| {
                let first = offers(&mut order, &groups, 1)[0].0;
                order.served(first);
                first
            })
            .collect();
        let (one, two) = (groups[0].client, groups[1].client);
        assert_eq!(served, [one, two, one, two, one, two]);
    }

    #[test]
    fn a_claim_for_the_turn_of_a_client_offers_its_jobs_first() {
        let (mut order, groups) = (ClientOrder::default(), [group(1, 0, 1), group(2, 0, 2)]);
        let two = groups[1].client;
        order.served(two);
        assert_eq!(order.offers("a", &groups, Some(two), 1, id(9))[0].client, two);
        assert_ne!(order.offers("a", &groups, None, 1, id(9))[0].client, two);
    }

    #[test]
    fn several_slots_are_shared_and_a_client_may_fill_what_another_leaves() {
        let groups = [group(1, 5, 1), group(1, 0, 1), group(2, 0, 2)];
        let (one, two) = (groups[0].client, groups[2].client);
        assert_eq!(offers(&mut ClientOrder::default(), &groups, 3), [(one, 5, 2), (two, 0, 2), (one, 0, 3)]);
    }

    #[test]
    fn priority_decides_within_a_client_and_every_tenth_time_age() {
        let mut order = ClientOrder::default();
        let groups = [group(1, 5, 20), group(1, -5, 10)];
        let choices: Vec<i16> = (0..20)
            .map(|_| {
                let (client, priority, _) = offers(&mut order, &groups, 1)[0];
                order.served(client);
                priority
            })
            .collect();
        let tenth = |priorities: &[i16]| priorities.iter().all(|priority| *priority == 5);
        assert!(tenth(&choices[..9]) && tenth(&choices[10..19]), "{choices:?}");
        assert_eq!((choices[9], choices[19]), (-5, -5));
    }

    #[test]
    fn bounds_stay_below_what_may_still_commit() {
        let bounds: Vec<JobId> = ClientOrder::default()
            .offers("a", &[group(1, 0, 5), group(2, 0, 50)], None, 2, id(20))
            .into_iter()
            .map(|offer| offer.lower_bound)
            .collect();
        assert_eq!(bounds, [id(5), id(20)]);
    }

    proptest! {
        /// However clients come and go, no waiting client is passed over twice by the same other client.
        #[test]
        fn no_client_is_served_twice_while_another_waits(
            waiting in prop::collection::vec(prop::collection::btree_set(1..12u128, 1..8), 1..60),
        ) {
            let mut order = ClientOrder::default();
            let mut since: HashMap<ClientId, Vec<ClientId>> = HashMap::new();
            for clients in waiting {
                let groups: Vec<Group> = clients.iter().map(|client| group(*client, 0, 1)).collect();
                since.retain(|client, _| groups.iter().any(|group| group.client == *client));
                for group in &groups {
                    since.entry(group.client).or_default();
                }
                let first = offers(&mut order, &groups, 1)[0].0;
                order.served(first);
                since.remove(&first);
                for (client, passed_by) in &mut since {
                    prop_assert!(!passed_by.contains(&first), "{client} waited while {first} was served twice");
                    passed_by.push(first);
                }
            }
        }
    }
}
