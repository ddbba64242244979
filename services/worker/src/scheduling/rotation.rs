//! Decides which client has the GPU, and with which load key. Pure: callers pass the time, and the rotation itself
//! claims and loads nothing.
//!
//! A turn makes one key resident for one client. Turns go round the clients first, and round the keys of each client
//! second. So a client gains nothing by making many keys.
//!
//! - The next turn goes to the client whose last turn ended longest ago, with the key whose last turn ended longest
//!   ago.
//! - The key that has the turn serves all clients that share it.
//! - The key keeps the turn while it has work. It loses the turn when another client or key waits and it has been
//!   resident for its quantum.
//! - If the next client wants only the resident key, it gets its turn without a load.
//!
//! Two bounds follow. When every turn lasts for its quantum, loading takes at most the share ε of the GPU's time. And
//! a client with work waits for its next claim at most `(N-1)(Q'+S+L) + S + L`, counted from its arrival or from the
//! end of its own last turn. N is the number of clients with work, Q' the quantum, S the longest load, and L the
//! longest run. The reason: before its turn each other client has one turn, with a load, the quantum, and a last run.
//! Then a turn of its own key may have just begun, and its claim waits for one more load and one more run. While only
//! one client has work, turns go round its keys, and N is the number of its keys.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

use super::estimates::Estimates;

/// What the GPU should do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Next<C, K> {
    /// Claim for the key that has the turn.
    Stay(K),
    /// Claim nothing until all GPU jobs have ended. Ollama may deadlock if it must load a second model while requests
    /// run.
    WaitForIdle,
    /// Claim for this key, with this client's jobs first. If the claim brings a job, call [`Rotation::enter`].
    Switch { client: C, key: K },
    /// Claim nothing, because no key has work.
    Rest,
}

#[derive(Debug)]
pub(crate) struct Rotation<C, K> {
    load_share: f64,
    max_wait: Duration,
    turn: Option<Turn<C, K>>,
    clients: Line<C>,
    keys: Line<K>,
}

#[derive(Debug)]
struct Turn<C, K> {
    /// The client that has the turn. Other clients that share the key are served as well, and keep their own turns.
    client: C,
    key: K,
    /// `None` until the key is loaded, because the quantum counts only time for work.
    resident_since: Option<Instant>,
}

/// Clients, or keys, in the order of their last turns. It forgets those that had no work for `max_wait`, and treats
/// them as newcomers when they come back.
#[derive(Debug)]
struct Line<T>(HashMap<T, Position>);

#[derive(Debug, Clone, Copy)]
struct Position {
    /// When the last turn ended. For a newcomer, when it was first seen with work, so that newcomers line up at the end.
    since: Instant,
    last_had_work: Instant,
}

impl<C: Clone + Eq + Hash, K: Clone + Eq + Hash> Rotation<C, K> {
    /// `load_share` is ε, between 0 and 1. Quanta are made shorter where the bound would exceed `max_wait`.
    pub(crate) fn new(load_share: f64, max_wait: Duration) -> Self {
        Self { load_share, max_wait, turn: None, clients: Line::default(), keys: Line::default() }
    }

    /// What to do now. `waiting` has each client with each key that it has unclaimed jobs of; `in_flight` tells
    /// whether GPU jobs run.
    pub(crate) fn next(
        &mut self,
        waiting: &[(C, K)],
        in_flight: bool,
        estimates: &Estimates<K>,
        now: Instant,
    ) -> Next<C, K> {
        self.line_up(waiting, now);
        let next = self.next_in_line(waiting).cloned();
        let goes_on = |turn: &&Turn<C, K>| waiting.iter().any(|(_, key)| *key == turn.key);
        if let Some(turn) = self.turn.as_ref().filter(goes_on) {
            let key = turn.key.clone();
            match next {
                Some((client, next)) if self.has_had_its_share(turn, estimates, now) => {
                    if next != key {
                        return if in_flight {
                            Next::WaitForIdle
                        } else {
                            Next::Switch { client, key: next }
                        };
                    }
                    self.leave(now);
                    self.turn = Some(Turn { client, key: next, resident_since: Some(now) });
                }
                _ => {}
            }
            return Next::Stay(key);
        }
        match next {
            None => Next::Rest,
            Some(_) if in_flight => Next::WaitForIdle,
            Some((client, key)) => Next::Switch { client, key },
        }
    }

    /// A claim brought a job of this client and key. If the key does not have the turn yet, this client's turn with
    /// it begins.
    pub(crate) fn enter(&mut self, client: C, key: &K, now: Instant) {
        if !self.has_turn(key) {
            self.leave(now);
            self.turn = Some(Turn { client, key: key.clone(), resident_since: None });
        }
    }

    /// The key that has the turn is loaded. Its quantum runs from now on, unless it runs already.
    pub(crate) fn loaded(&mut self, now: Instant) {
        if let Some(turn) = &mut self.turn {
            turn.resident_since.get_or_insert(now);
        }
    }

    /// Ends the turn, possibly before its quantum is over.
    pub(crate) fn leave(&mut self, now: Instant) {
        if let Some(turn) = self.turn.take() {
            self.clients.had_turn(turn.client, now);
            self.keys.had_turn(turn.key, now);
        }
    }

    pub(crate) fn has_turn(&self, key: &K) -> bool {
        self.turn.as_ref().is_some_and(|turn| turn.key == *key)
    }

    /// Whose turn comes next, and with which key: another client if one waits, or otherwise another key of the same
    /// client.
    fn next_in_line<'a>(&self, waiting: &'a [(C, K)]) -> Option<&'a (C, K)> {
        let is_turns = |client: &C| self.turn.as_ref().is_some_and(|turn| turn.client == *client);
        let of_others = waiting.iter().filter(|(client, _)| !is_turns(client));
        // The resident key comes last among a client's keys, because its turn has not even ended yet.
        let position =
            |(client, key): &&(C, K)| (self.clients.since(client), self.has_turn(key), self.keys.since(key));
        of_others.min_by_key(position).or_else(|| {
            let own = waiting.iter().filter(|(client, key)| is_turns(client) && !self.has_turn(key));
            own.min_by_key(|(_, key)| self.keys.since(key))
        })
    }

    fn has_had_its_share(&self, turn: &Turn<C, K>, estimates: &Estimates<K>, now: Instant) -> bool {
        turn.resident_since
            .is_some_and(|since| now.saturating_duration_since(since) >= self.quantum(turn, estimates))
    }

    /// Q': how long the key of this turn may stay resident while others wait. It is long enough that loading takes
    /// the share ε of the turn, but shorter if the others would wait for longer than `max_wait`. Even with a quantum
    /// of zero one job runs, because a turn begins with a claim.
    fn quantum(&self, turn: &Turn<C, K>, estimates: &Estimates<K>) -> Duration {
        let all = || self.keys.0.keys().chain([&turn.key]);
        let load = all().map(|key| estimates.load(key)).max().unwrap_or_default();
        let run = all().map(|key| estimates.longest_run(key)).max().unwrap_or_default();
        let others = match self.clients.others(&turn.client) {
            0 => self.keys.others(&turn.key),
            clients => clients,
        };
        let others = u32::try_from(others).unwrap_or(u32::MAX).max(1);
        let fair = estimates.load(&turn.key).mul_f64((1.0 - self.load_share) / self.load_share);
        let bearable = (self.max_wait.saturating_sub(load + run) / others).saturating_sub(load + run);
        fair.min(bearable)
    }

    fn line_up(&mut self, waiting: &[(C, K)], now: Instant) {
        for (client, key) in waiting {
            self.clients.has_work(client, now);
            self.keys.has_work(key, now);
        }
        self.clients.forget(self.max_wait, now);
        self.keys.forget(self.max_wait, now);
    }
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Clone + Eq + Hash> Line<T> {
    fn has_work(&mut self, one: &T, now: Instant) {
        match self.0.get_mut(one) {
            Some(position) => position.last_had_work = now,
            None => self.had_turn(one.clone(), now),
        }
    }

    fn had_turn(&mut self, one: T, now: Instant) {
        self.0.insert(one, Position { since: now, last_had_work: now });
    }

    fn since(&self, one: &T) -> Option<Instant> {
        self.0.get(one).map(|position| position.since)
    }

    /// How many others are in the line.
    fn others(&self, one: &T) -> usize {
        self.0.len() - usize::from(self.0.contains_key(one))
    }

    fn forget(&mut self, max_wait: Duration, now: Instant) {
        self.0.retain(|_, position| now.saturating_duration_since(position.last_had_work) <= max_wait);
    }
}

#[cfg(test)]
mod tests;
