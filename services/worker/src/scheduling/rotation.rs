//! Which client the host works for, and on which load key. Pure: it is told the time, and it claims and loads nothing.
//!
//! A turn is one key made resident for one client. Turns go round the clients first and round the keys of a client second,
//! so that no client gains by making keys: the next client is the one whose last turn ended longest ago, and it gets
//! the one of its keys that was left longest ago. A key that has the turn serves everybody who shares it. It keeps the turn
//! while it has work, until it was resident for its quantum and somebody else waits. Where the next client only
//! wants the key that is resident, the turn passes to it without a load.
//!
//! Loading then takes at most the share ε of the GPU's time where turns are used up, and a client with work waits for its
//! next claim at most `(N-1)(Q'+S+L) + S + L`, counted from when it came or from when its own last turn ended, where N is
//! the number of clients with work, however many keys they have: each other client has one turn before, which is to load,
//! stay and finish; and its own key's turn may just have begun, with a load and a run in the way. A client that is alone
//! goes round its keys, and N is their number.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

use super::estimates::Estimates;

/// What to do about the keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Next<C, K> {
    /// Claim for the key that has the turn.
    Stay(K),
    /// Claim nothing, so that what runs comes to its end: Ollama may deadlock on a second model before.
    WaitForIdle,
    /// Claim for this key, this client's jobs first. If that brings a job, say so with [`Rotation::enter`].
    Switch { client: C, key: K },
    /// No key has work.
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
    /// Whose turn it is. Others who share the key are served too, and have their own turns all the same.
    client: C,
    key: K,
    /// Nothing until the key is loaded: the quantum is for working.
    resident_since: Option<Instant>,
}

/// Clients, or keys, in the order of their last turns. Who had no work for `max_wait` is forgotten: whoever waits now does
/// not wait for those, and they come back as newcomers.
#[derive(Debug)]
struct Line<T>(HashMap<T, Position>);

#[derive(Debug, Clone, Copy)]
struct Position {
    /// When the last turn ended, or the first work was seen: a newcomer lines up behind those who were there.
    since: Instant,
    had_work: Instant,
}

impl<C: Clone + Eq + Hash, K: Clone + Eq + Hash> Rotation<C, K> {
    /// `load_share` is ε, between 0 and 1; `max_wait` is what the bound should not exceed if that can be had.
    pub(crate) fn new(load_share: f64, max_wait: Duration) -> Self {
        Self { load_share, max_wait, turn: None, clients: Line::default(), keys: Line::default() }
    }

    /// What to do now, where these clients wait for jobs of these keys to be claimed.
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

    /// A claim brought a job of this client and key: the key has the turn, and if it had not, it is this client's.
    pub(crate) fn enter(&mut self, client: C, key: &K, now: Instant) {
        if !self.has_turn(key) {
            self.leave(now);
            self.turn = Some(Turn { client, key: key.clone(), resident_since: None });
        }
    }

    /// The key that has the turn is loaded; from here its quantum runs.
    pub(crate) fn loaded(&mut self, now: Instant) {
        if let Some(turn) = &mut self.turn {
            turn.resident_since.get_or_insert(now);
        }
    }

    /// Ends the turn, also before its time, as when its model could not be loaded.
    pub(crate) fn leave(&mut self, now: Instant) {
        if let Some(turn) = self.turn.take() {
            self.clients.had_turn(turn.client, now);
            self.keys.had_turn(turn.key, now);
        }
    }

    pub(crate) fn has_turn(&self, key: &K) -> bool {
        self.turn.as_ref().is_some_and(|turn| turn.key == *key)
    }

    /// Whose turn comes after the present one: another client's if one waits, or else another key of the same client's.
    fn next_in_line<'a>(&self, waiting: &'a [(C, K)]) -> Option<&'a (C, K)> {
        let is_turns = |client: &C| self.turn.as_ref().is_some_and(|turn| turn.client == *client);
        let of_others = waiting.iter().filter(|(client, _)| !is_turns(client));
        // The resident key is the one that was left least long ago.
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

    /// Q' of the design: the load's fair return, or less where the others would wait too long. At least one job runs
    /// in any case, because a turn begins with a claim.
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
            Some(position) => position.had_work = now,
            None => self.had_turn(one.clone(), now),
        }
    }

    fn had_turn(&mut self, one: T, now: Instant) {
        self.0.insert(one, Position { since: now, had_work: now });
    }

    fn since(&self, one: &T) -> Option<Instant> {
        self.0.get(one).map(|position| position.since)
    }

    /// How many beside this one stand in line.
    fn others(&self, one: &T) -> usize {
        self.0.len() - usize::from(self.0.contains_key(one))
    }

    fn forget(&mut self, max_wait: Duration, now: Instant) {
        self.0.retain(|_, position| now.saturating_duration_since(position.had_work) <= max_wait);
    }
}

#[cfg(test)]
mod tests;
