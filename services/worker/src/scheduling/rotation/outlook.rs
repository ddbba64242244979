//! Tells people why a runner has the turn and which turns come next, by the same comparisons that decide it. Must never
//! change the rotation.

use std::collections::{HashMap, HashSet};

use super::{Duration, Gpu, Hash, Instant, Rotation, Stays, Waiting};

/// A turn that comes later, as things stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LaterTurn<C, K> {
    pub(crate) client: C,
    pub(crate) key: K,
    pub(crate) by: By<C>,
}

/// What has put a turn at its place in the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By<C> {
    /// No other client waits.
    Alone,
    /// Another runner of the client comes first.
    OwnRunners,
    /// Its client stands before this one, for this reason.
    Before(C, Compared),
    /// Its client stands behind this one, for this reason.
    Behind(C, Compared),
}

/// The first difference between two clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compared {
    /// What they have had for their weight.
    Standing,
    /// Which of them has the turn.
    Turn,
    /// Since when they wait.
    Wait,
}

impl<C: Clone + Eq + Hash, U: Clone + Eq + Hash, K: Clone + Eq + Hash> Rotation<C, U, K> {
    /// Why the runner that has the turn keeps it while it has work. `None` if its turn is over.
    pub(crate) fn stays<S: Ord>(
        &self,
        waiting: &impl Waiting<C, U, K>,
        standing: impl Fn(&C) -> S,
        gpu: &Gpu<'_, K>,
        now: Instant,
    ) -> Option<Stays> {
        let next = self.next_of_all(waiting, standing);
        self.why_it_stays(next.as_ref().map(|(_, key)| key), waiting, gpu, now)
    }

    /// The turns that come next, at most this many: those that would follow if each of them cost the same. First comes
    /// one turn of each client, in the order in which clients take turns, then a second one of those that wait for
    /// several runners. What is loaded is left out.
    pub(crate) fn coming<S: Ord>(
        &self,
        waiting: &impl Waiting<C, U, K>,
        standing: impl Fn(&C) -> S,
        gpu: &Gpu<'_, K>,
        at_most: usize,
    ) -> Vec<LaterTurn<C, K>> {
        let mut seen: HashSet<C> = HashSet::new();
        let mut clients: Vec<C> = waiting.clients().filter(|client| seen.insert(client.clone())).collect();
        clients.sort_by_cached_key(|client| self.client_place(client, &standing));
        // Of each client that was looked at.
        let mut runners: Vec<Vec<K>> = Vec::new();
        let mut coming: Vec<LaterTurn<C, K>> = Vec::new();
        for round in 0.. {
            let mut is_last = true;
            for (nth, client) in clients.iter().enumerate() {
                if round == 0 {
                    runners.push(self.in_turn(client, waiting.runners_of(client.clone())));
                }
                let Some(key) = runners[nth].get(round) else { continue };
                is_last = false;
                if coming.len() == at_most {
                    return coming;
                }
                if self.needs_load(key, gpu) && coming.iter().all(|before| before.key != *key) {
                    let compared = |other: &C| self.compared(client, other, &standing);
                    let by = match (nth.checked_sub(1), clients.get(1)) {
                        _ if round > 0 => By::OwnRunners,
                        (Some(before), _) => By::Behind(clients[before].clone(), compared(&clients[before])),
                        (None, Some(behind)) => By::Before(behind.clone(), compared(behind)),
                        (None, None) => By::Alone,
                    };
                    coming.push(LaterTurn { client: client.clone(), key: key.clone(), by });
                }
            }
            if is_last {
                break;
            }
        }
        coming
    }

    /// The runners of one client, each once, in the order of their turns. After a turn for one user alone, those of the others
    /// come before its next one.
    fn in_turn(&self, client: &C, runners: impl Iterator<Item = (K, Option<U>)>) -> Vec<K> {
        let mut runners: Vec<_> = runners.collect();
        runners.sort_by_cached_key(|(key, user)| self.key_place(client, key, user.as_ref()));
        let (mut seen, mut turns) = (HashSet::new(), HashMap::new());
        let mut in_turn: Vec<(usize, K)> = Vec::new();
        for (key, user) in runners {
            if seen.insert(key.clone()) {
                let turns = user.map(|user| turns.entry(user).or_default());
                in_turn.push((turns.as_deref().copied().unwrap_or_default(), key));
                turns.into_iter().for_each(|turns| *turns += 1);
            }
        }
        in_turn.sort_by_key(|(nth, _)| *nth);
        in_turn.into_iter().map(|(_, key)| key).collect()
    }

    fn compared<S: Ord>(&self, one: &C, other: &C, standing: impl Fn(&C) -> S) -> Compared {
        let (one, other) = (self.client_place(one, &standing), self.client_place(other, &standing));
        if one.0 != other.0 {
            Compared::Standing
        } else if one.1 != other.1 {
            Compared::Turn
        } else {
            Compared::Wait
        }
    }

    /// The longest time for which a client with work should wait.
    pub(crate) fn max_wait(&self) -> Duration {
        self.max_wait
    }
}
