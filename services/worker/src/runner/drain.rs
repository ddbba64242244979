//! Which load key the host works on. Pure: it is told the time, and it claims and loads nothing.
//!
//! A key that has the turn keeps it while it has work, until it was resident for its quantum and another waits; the
//! next is the one left longest ago. Loading then takes at most the share ε of the GPU's time, and the first job that
//! a key will claim waits for that claim at most `(N-1)(Q'+S+L) + S + L`: for the load and the last run of its key's
//! own turn, which may just have begun, and for each other key to load, stay and finish.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

use super::pace::Pace;

/// What to do about the keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Next<K> {
    /// Claim for the key that has the turn.
    Stay(K),
    /// Claim nothing, so that what runs comes to its end: Ollama may deadlock on a second model before.
    Drain,
    /// Claim for this one. If that brings a job, say so with [`Drain::enter`].
    Switch(K),
    /// No key has work.
    Rest,
}

#[derive(Debug)]
pub(crate) struct Drain<K> {
    load_share: f64,
    max_wait: Duration,
    turn: Option<Turn<K>>,
    /// Every key that had work within `max_wait`. Whoever waits now waits for no others: one that was away for longer
    /// is a newcomer.
    line: HashMap<K, Place>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    /// When it was left, or first seen to wait: a newcomer lines up behind those who were there.
    since: Instant,
    /// When it last had work.
    had_work: Instant,
}

#[derive(Debug)]
struct Turn<K> {
    key: K,
    /// Nothing until it is loaded: the quantum is for working.
    resident_since: Option<Instant>,
}

impl<K: Clone + Eq + Hash> Drain<K> {
    /// `load_share` is ε, between 0 and 1; `max_wait` is what the bound should not exceed if that can be had.
    pub(crate) fn new(load_share: f64, max_wait: Duration) -> Self {
        Self { load_share, max_wait, turn: None, line: HashMap::new() }
    }

    /// What to do now, with these keys waiting for their jobs to be claimed.
    pub(crate) fn next(&mut self, waiting: &[K], in_flight: bool, pace: &Pace<K>, now: Instant) -> Next<K> {
        self.line_up(waiting, now);
        let others = waiting.iter().filter(|key| !self.has_turn(key));
        let next = others.min_by_key(|key| self.line.get(key).map(|place| place.since));
        if let Some(turn) = self.turn.as_ref().filter(|turn| waiting.contains(&turn.key))
            && (next.is_none() || !self.has_had_its_share(turn, pace, now))
        {
            return Next::Stay(turn.key.clone());
        }
        match next {
            None => Next::Rest,
            Some(_) if in_flight => Next::Drain,
            Some(longest_ago) => Next::Switch(longest_ago.clone()),
        }
    }

    /// A claim for this key brought a job: it has the turn.
    pub(crate) fn enter(&mut self, key: &K, now: Instant) {
        if !self.has_turn(key) {
            self.leave(now);
            self.turn = Some(Turn { key: key.clone(), resident_since: None });
        }
    }

    /// The key that has the turn is loaded; from here its quantum runs.
    pub(crate) fn loaded(&mut self, now: Instant) {
        if let Some(turn) = &mut self.turn {
            turn.resident_since.get_or_insert(now);
        }
    }

    /// Ends the turn before its time, as when its model could not be loaded.
    pub(crate) fn leave(&mut self, now: Instant) {
        if let Some(turn) = self.turn.take() {
            self.line.insert(turn.key, Place { since: now, had_work: now });
        }
    }

    pub(crate) fn has_turn(&self, key: &K) -> bool {
        self.turn.as_ref().is_some_and(|turn| turn.key == *key)
    }

    fn has_had_its_share(&self, turn: &Turn<K>, pace: &Pace<K>, now: Instant) -> bool {
        let quantum = self.quantum(&turn.key, pace);
        turn.resident_since.is_some_and(|since| now.saturating_duration_since(since) >= quantum)
    }

    /// Q' of the design: the load's fair return, or less where the others would wait too long. At least one job runs
    /// in any case, because a turn begins with a claim.
    fn quantum(&self, key: &K, pace: &Pace<K>) -> Duration {
        let all = || self.line.keys().chain([key]);
        let load = all().map(|key| pace.load(key)).max().unwrap_or_default();
        let run = all().map(|key| pace.longest_run(key)).max().unwrap_or_default();
        let others = self.line.keys().filter(|other| *other != key).count();
        let others = u32::try_from(others).unwrap_or(u32::MAX).max(1);
        let fair = pace.load(key).mul_f64((1.0 - self.load_share) / self.load_share);
        let bearable = (self.max_wait.saturating_sub(load + run) / others).saturating_sub(load + run);
        fair.min(bearable)
    }

    fn line_up(&mut self, waiting: &[K], now: Instant) {
        for key in waiting {
            match self.line.get_mut(key) {
                Some(place) => place.had_work = now,
                None => {
                    self.line.insert(key.clone(), Place { since: now, had_work: now });
                }
            }
        }
        self.line.retain(|_, place| now.saturating_duration_since(place.had_work) <= self.max_wait);
    }
}

#[cfg(test)]
mod tests;
