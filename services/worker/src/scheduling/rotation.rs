//! Decides which client has the GPU, and with which runner. Pure: callers pass the time, and the rotation itself
//! claims and loads nothing.
//!
//! A turn makes one runner resident for one client. Turns go round the clients first, and round the runners of each
//! client second. So a client gains nothing by making many load keys, and none of its users does.
//!
//! - The next turn goes to the client that has had the least GPU time for its weight, loads made for it included.
//! - Of that client's runners, the one whose last turn ended longest ago is next. One that a single user waits for waits
//!   since the last turn of a runner that this user alone waited for, if that ended later.
//! - The runner that has the turn serves all clients that share it.
//! - It keeps the turn while it has work. It loses the turn when another client or runner waits and it has been
//!   resident for its quantum. While a caller waits for another runner, the quantum is only as long as the load was.
//! - If the next client wants only the resident runner, the turn goes on until another client is next.
//! - Where several runners are resident, whoever is next among their clients is served at once, beside what runs. A
//!   quantum is the time since the last load then, whichever of them has had the turn.
//!
//! Two bounds follow. When every turn lasts for its quantum, loading takes at most the share ε of the GPU's time, or
//! half of it while callers wait. And a client with work waits for its next claim at most `2(N-1)(Q'+S+L) + S + 2L`,
//! where all clients have the same weight. N is the number of clients with work, Q' the quantum, S the longest load,
//! and L the longest run. The reason: a turn costs a load, the quantum and a last run, `Q'+S+L`. So after its turn a
//! client has had at most that much more than any other. It waits while the others catch up, `(N-1)(Q'+S+L)`, and each
//! of them may go beyond it by one turn, `(N-1)(Q'+S+L)` again. Then a turn of its own runner may have just begun, and
//! its claim waits for one more load and one more run; and because what is under way counts by an estimate, somebody may
//! go one run too far. A client that comes anew waits for the second part alone. Of
//! different weights, another client of weight w catches up `w/own` turns instead of one.
//!
//! While only one client has work, each of its users waits at most `(N-1)(Q'+S+L) + S + 2L`, with N the number of its
//! runners: before the user's own, each of the others has one turn at most. A runner waits longer than that where the bound
//! of its client or user lets others go before each of its turns: a client with K runners comes to each of them with every
//! Kth turn that it gets.

mod outlook;

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

use super::estimates::Estimates;
pub(crate) use outlook::{By, Compared, LaterTurn};

/// The share of GPU time that loading may take while a caller waits on its connection for another runner.
const LOAD_SHARE_FOR_CALLERS: f64 = 0.5;

/// What the GPU should do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Next<C, K> {
    /// Claim for the key that has the turn.
    Stay(K),
    /// Claim for this key, which is resident as well, with this client's jobs first. Requests may be in flight. If the
    /// claim brings a job, call [`Rotation::claimed`].
    Resident { client: C, key: K },
    /// Claim nothing until all GPU jobs have ended. Ollama may deadlock if it must load a second model while requests
    /// run.
    WaitForIdle,
    /// Claim for this key, with this client's jobs first. If the claim brings a job, call [`Rotation::claimed`].
    Switch { client: C, key: K },
    /// Claim nothing, because no key has work.
    Rest,
}

/// Why the runner that has the turn keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stays {
    /// Nobody waits for a load.
    NobodyElseWaits,
    /// The client that comes next wants what is loaded.
    WantedNext,
    WithinQuantum,
}

/// Who waits for which runner. One client or runner may come several times.
pub(crate) trait Waiting<C, U, K> {
    fn clients(&self) -> impl Iterator<Item = C>;

    /// The runners that clients wait for, each with whether callers wait for it on their connections.
    fn runners(&self) -> impl Iterator<Item = (K, bool)>;

    /// The runners that a client waits for, each with its user if a single one waits for it. Of one that comes several
    /// times, each waits with a user of its own.
    fn runners_of(&self, client: C) -> impl Iterator<Item = (K, Option<U>)>;

    fn clients_of(&self, runner: &K) -> impl Iterator<Item = C>;
}

/// What the rotation must know of the GPU.
#[derive(Debug)]
pub(crate) struct Gpu<'a, K> {
    /// The runners whose requests need no load before them.
    pub(crate) resident: &'a [K],
    /// Whether GPU jobs run.
    pub(crate) is_busy: bool,
    pub(crate) estimates: &'a Estimates<K>,
}

#[derive(Debug, Clone)]
pub(crate) struct Rotation<C, U, K> {
    load_share: f64,
    max_wait: Duration,
    turn: Option<Turn<C, U, K>>,
    /// When the last load ended.
    loaded_at: Option<Instant>,
    /// When a claim last brought a job of each client.
    clients: Line<C>,
    /// When the last turn of each runner ended.
    keys: Line<K>,
    /// When the last turn ended that was for this user of this client alone.
    users: HashMap<(C, U), Instant>,
}

#[derive(Debug, Clone)]
struct Turn<C, U, K> {
    /// The client that the runner was loaded for. Other clients that share it are served as well. `None` where an
    /// earlier holder of the host has loaded it.
    client: Option<C>,
    /// The user of that client that alone waited for the runner.
    user: Option<U>,
    key: K,
    /// Since when nothing was loaded. `None` until the runner is loaded, because the quantum counts only time for work.
    resident_since: Option<Instant>,
}

/// The clients, or the runners, that wait, with the time since which each waits: since it was last served, or since it
/// was first seen with work.
#[derive(Debug, Clone)]
struct Line<T>(HashMap<T, Instant>);

/// The longest times that count for waiting, as far as they are measured.
#[derive(Debug, Clone, Copy)]
struct Longest {
    /// S
    load: Duration,
    /// L
    run: Duration,
}

impl<C: Clone + Eq + Hash, U: Clone + Eq + Hash, K: Clone + Eq + Hash> Rotation<C, U, K> {
    /// `load_share` is ε, between 0 and 1. Quanta are made shorter where the bound would exceed `max_wait`.
    pub(crate) fn new(load_share: f64, max_wait: Duration) -> Self {
        Self {
            load_share,
            max_wait,
            turn: None,
            loaded_at: None,
            clients: Line::default(),
            keys: Line::default(),
            users: HashMap::new(),
        }
    }

    /// What to do now. `goes_on` tells whether the runner that has the turn has work; `waiting` tells what every client
    /// waits for, and is asked only where that matters; `standing` orders the clients, the least first.
    pub(crate) fn next<S: Ord, W: Waiting<C, U, K>>(
        &mut self,
        goes_on: bool,
        waiting: impl FnOnce() -> W,
        standing: impl Fn(&C) -> S,
        gpu: Gpu<'_, K>,
        now: Instant,
    ) -> Next<C, K> {
        let turn = self.turn.as_ref().filter(|_| goes_on).map(|turn| turn.key.clone());
        // Beside a runner that is yet to be loaded nothing else may run.
        let is_shared = |key: &K| gpu.resident.contains(key) && gpu.resident.len() > 1;
        if let Some(key) = &turn
            && !is_shared(key)
            && !self.is_over(LOAD_SHARE_FOR_CALLERS, &gpu, now)
        {
            return Next::Stay(key.clone());
        }
        let waiting = waiting();
        self.line_up(&waiting, now);
        let next = self.next_of_all(&waiting, &standing);
        // In their order, because the first of equals is next.
        let loaded: Vec<K> =
            waiting.runners().map(|(key, _)| key).filter(|key| !self.needs_load(key, &gpu)).collect();
        let goes_on = turn.is_some() || !loaded.is_empty();
        let next_key = next.as_ref().map(|(_, key)| key);
        if goes_on && self.why_it_stays(next_key, &waiting, &gpu, now).is_some() {
            let clients = loaded.iter().flat_map(|key| waiting.clients_of(key));
            let keys =
                |client: &C| waiting.runners_of(client.clone()).filter(|(key, _)| loaded.contains(key));
            return match (self.next_in_line(clients, keys, &standing), turn) {
                (Some((_, key)), Some(turn)) if key == turn => Next::Stay(turn),
                (Some((client, key)), _) => Next::Resident { client, key },
                (None, turn) => turn.map_or(Next::Rest, Next::Stay),
            };
        }
        match next {
            Some(_) if gpu.is_busy => Next::WaitForIdle,
            Some((client, key)) => Next::Switch { client, key },
            None => Next::Rest,
        }
    }

    /// Why what is loaded is served, while it has work and this runner comes next. `None` if a load comes next.
    fn why_it_stays(
        &self,
        next: Option<&K>,
        waiting: &impl Waiting<C, U, K>,
        gpu: &Gpu<'_, K>,
        now: Instant,
    ) -> Option<Stays> {
        let mut others = waiting.runners().filter(|(key, _)| self.needs_load(key, gpu)).peekable();
        if others.peek().is_none() {
            return Some(Stays::NobodyElseWaits);
        }
        if next.is_none_or(|next| !self.needs_load(next, gpu)) {
            return Some(Stays::WantedNext);
        }
        let load_share =
            if others.any(|(_, is_sync)| is_sync) { LOAD_SHARE_FOR_CALLERS } else { self.load_share };
        (!self.is_over(load_share, gpu, now)).then_some(Stays::WithinQuantum)
    }

    /// Whether a runner must be loaded for its next claim. The one that has the turn is loaded, or being loaded.
    fn needs_load(&self, key: &K, gpu: &Gpu<'_, K>) -> bool {
        !self.has_turn(key) && !gpu.resident.contains(key)
    }

    /// These clients wait for these runners.
    pub(crate) fn line_up(&mut self, waiting: &impl Waiting<C, U, K>, now: Instant) {
        self.clients.line_up(waiting.clients(), now);
        self.keys.line_up(waiting.runners().map(|(key, _)| key), now);
    }

    /// Only these users still wait.
    pub(crate) fn forget_turns(&mut self, waits: impl Fn(&C, &U) -> bool) {
        self.users.retain(|(client, user), _| waits(client, user));
    }

    /// A claim brought a job of this client for this runner. If the runner does not have the turn yet, this client's
    /// turn with it begins. `only_user` tells which of its users alone waited for the runner.
    pub(crate) fn claimed(
        &mut self,
        client: C,
        only_user: impl FnOnce() -> Option<U>,
        key: &K,
        now: Instant,
    ) {
        self.clients.served(&client, now);
        if !self.has_turn(key) {
            self.leave(now);
            let (client, user) = (Some(client), only_user());
            self.turn = Some(Turn { client, user, key: key.clone(), resident_since: None });
        }
    }

    /// An earlier holder of the host gave this runner the turn.
    pub(crate) fn remember(&mut self, key: K) {
        self.turn.get_or_insert(Turn { client: None, user: None, key, resident_since: None });
    }

    /// A load has ended.
    pub(crate) fn loaded(&mut self, now: Instant) {
        self.loaded_at = Some(now);
    }

    /// The runner that has the turn is resident. Its quantum runs since the last load, unless it runs already.
    pub(crate) fn is_resident(&mut self, now: Instant) {
        if let Some(turn) = &mut self.turn {
            turn.resident_since.get_or_insert(self.loaded_at.unwrap_or(now));
        }
    }

    /// Ends the turn, possibly before its quantum is over.
    pub(crate) fn leave(&mut self, now: Instant) {
        if let Some(Turn { client, user, key, .. }) = self.turn.take() {
            self.keys.served(&key, now);
            self.users.extend(client.zip(user).map(|whose| (whose, now)));
        }
    }

    pub(crate) fn has_turn(&self, key: &K) -> bool {
        self.turn.as_ref().is_some_and(|turn| turn.key == *key)
    }

    /// Since when this runner has waited for its next turn. `None` if it has no work.
    pub(crate) fn waits_since(&self, key: &K) -> Option<Instant> {
        self.keys.since(key)
    }

    /// The clients that wait.
    pub(crate) fn clients(&self) -> impl Iterator<Item = &C> {
        self.clients.0.keys()
    }

    /// Which runner has the turn.
    pub(crate) fn turn(&self) -> Option<&K> {
        self.turn.as_ref().map(|turn| &turn.key)
    }

    /// Whose turn it is.
    pub(crate) fn client(&self) -> Option<&C> {
        self.turn.as_ref().and_then(|turn| turn.client.as_ref())
    }

    /// The user of that client that the turn is for alone.
    pub(crate) fn user(&self) -> Option<&U> {
        self.turn.as_ref().and_then(|turn| turn.user.as_ref())
    }

    /// The longest time that a client with work waits for its next claim, as far as loads and runs are measured.
    /// `others` is the sum of `1 + their weight / its own weight` over the other clients that wait.
    pub(crate) fn bound(&self, others: f64, estimates: &Estimates<K>) -> Duration {
        let longest = self.longest(estimates);
        let turns =
            if self.clients.0.len() > 1 { others } else { self.keys.0.len().saturating_sub(1) as f64 };
        let turn = self.quantum(longest.load, self.load_share, longest) + longest.load + longest.run;
        turn.mul_f64(turns) + longest.load + longest.run * 2
    }

    /// Whose turn comes next, and with which runner.
    fn next_of_all<S: Ord>(
        &self,
        waiting: &impl Waiting<C, U, K>,
        standing: impl Fn(&C) -> S,
    ) -> Option<(C, K)> {
        self.next_in_line(waiting.clients(), |client| waiting.runners_of(client.clone()), standing)
    }

    /// The same, of these clients, each of which waits for some runners.
    fn next_in_line<S: Ord, I: Iterator<Item = (K, Option<U>)>>(
        &self,
        clients: impl Iterator<Item = C>,
        runners_of: impl Fn(&C) -> I,
        standing: impl Fn(&C) -> S,
    ) -> Option<(C, K)> {
        let client = clients.min_by_key(|client| self.client_place(client, &standing))?;
        let place = |(key, user): &(K, Option<U>)| self.key_place(&client, key, user.as_ref());
        let (key, _) = runners_of(&client).min_by_key(place)?;
        Some((client, key))
    }

    /// A client's place in the line of clients. The least comes first.
    fn client_place<S: Ord>(&self, client: &C, standing: impl Fn(&C) -> S) -> (S, bool, Option<Instant>) {
        (standing(client), self.client() == Some(client), self.clients.since(client))
    }

    /// The place of a runner among those of its client, with the user that alone waits for it. The resident runner comes
    /// last, because its turn has not even ended yet, and before it come others for the user that the turn is for.
    fn key_place(&self, client: &C, key: &K, user: Option<&U>) -> impl Ord + use<C, U, K> {
        let since = self.keys.since(key);
        let user_has_turn = user.is_some() && self.user() == user && self.client() == Some(client);
        // Most users have had no turn of their own, and no name is copied for them.
        let last_turn = user
            .filter(|_| !self.users.is_empty())
            .and_then(|user| self.users.get(&(client.clone(), user.clone())).copied());
        (self.has_turn(key), user_has_turn, since.max(last_turn), since)
    }

    /// Whether the quantum is over. Without a turn there is none.
    fn is_over(&self, load_share: f64, gpu: &Gpu<'_, K>, now: Instant) -> bool {
        let Some(turn) = &self.turn else { return true };
        let load_share = load_share.max(self.load_share);
        let quantum = self.quantum(gpu.estimates.load(&turn.key), load_share, self.longest(gpu.estimates));
        turn.resident_since.is_some_and(|since| now.saturating_duration_since(since) >= quantum)
    }

    /// Q': how long a runner with this load may stay resident while others wait. It is long enough that loading takes
    /// the share ε of the turn, but shorter if the others would wait for longer than `max_wait`. Even with a quantum of
    /// zero one job runs, because a turn begins with a claim.
    fn quantum(&self, own_load: Duration, load_share: f64, Longest { load, run }: Longest) -> Duration {
        let fair = own_load.mul_f64((1.0 - load_share) / load_share);
        let turns = match self.clients.0.len() {
            0 | 1 => self.keys.0.len().saturating_sub(1),
            clients => 2 * (clients - 1),
        };
        let turns = u32::try_from(turns).unwrap_or(u32::MAX).max(1);
        let bearable = (self.max_wait.saturating_sub(load + run * 2) / turns).saturating_sub(load + run);
        fair.min(bearable)
    }

    fn longest(&self, estimates: &Estimates<K>) -> Longest {
        let all = || self.keys.0.keys().chain(self.turn());
        Longest {
            load: all().map(|key| estimates.load(key)).max().unwrap_or_default(),
            run: all().map(|key| estimates.longest_run(key)).max().unwrap_or_default(),
        }
    }
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Clone + Eq + Hash> Line<T> {
    /// These wait, and no others.
    fn line_up(&mut self, waiting: impl Iterator<Item = T>, now: Instant) {
        let before = std::mem::take(&mut self.0);
        for one in waiting {
            let since = before.get(&one).copied().unwrap_or(now);
            self.0.insert(one, since);
        }
    }

    fn served(&mut self, one: &T, now: Instant) {
        if let Some(since) = self.0.get_mut(one) {
            *since = now;
        }
    }

    fn since(&self, one: &T) -> Option<Instant> {
        self.0.get(one).copied()
    }
}

#[cfg(test)]
mod tests;
