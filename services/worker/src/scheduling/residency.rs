//! Which runners we believe to be loaded. An answered preload of our own begins a belief. `/api/ps` may end it but must
//! never begin it, because that list shows several names with the same weights under only one of them. A wrong belief
//! costs little: a resident model answers a needless preload at once, and a request for a model that is gone loads it
//! by itself.
//!
//! With room for one runner, we believe in the one that was loaded last, and Ollama chooses what it unloads when it needs
//! room. With room for several, we choose, because Ollama unloads what is needed next. Which runners really fit
//! together is learned: what is not listed any more after a load was thrown out by it, and the two are not loaded
//! together again.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::time::Duration;

use foreman_ollama::{LoadKey, ModelName, RunningModel};
use tokio::time::Instant;

use super::key::Key;

/// Stop believing this much before the keep-alive ends. Ollama counts it by its own clock, and starts when a request
/// ends, which we hear of a little later.
const MARGIN: Duration = Duration::from_secs(30);

#[derive(Debug, Clone)]
pub(crate) struct Residency {
    /// For how many runners there is room.
    room: usize,
    residents: Vec<Resident>,
    /// Pairs of runners of which one has thrown out the other, in both orders.
    apart: HashSet<(Key, Key)>,
}

#[derive(Debug, Clone)]
struct Resident {
    key: Key,
    until: Instant,
    used_at: Instant,
    /// Of its weights. `None` if Ollama did not list it under its own name.
    digest: Option<String>,
}

impl Residency {
    pub(crate) fn new(room: usize) -> Self {
        Self { room, residents: Vec::new(), apart: HashSet::new() }
    }

    /// A preload of this runner was answered. Ollama then lists these models; none, if it does not say.
    pub(crate) fn loaded(&mut self, key: Key, listed: &[RunningModel], now: Instant) {
        let is_gone = |one: &mut Resident| {
            let is_listed =
                |digest: &String| listed.is_empty() || listed.iter().any(|model| model.digest == *digest);
            one.key.model() == key.model() || !one.digest.as_ref().is_none_or(is_listed)
        };
        for gone in self.residents.extract_if(.., is_gone).filter(|gone| gone.key.model() != key.model()) {
            tracing::info!(model = %gone.key.model(), by = %key.model(), "Ollama unloaded a model to make room");
            self.apart.insert((Key::clone(&key), Key::clone(&gone.key)));
            self.apart.insert((gone.key, Key::clone(&key)));
        }
        let excess = (self.residents.len() + 1).saturating_sub(self.room);
        self.residents.drain(..excess);
        let digest = listed.iter().find(|model| model.is(key.model())).map(|model| model.digest.clone());
        self.residents.push(Resident { key, until: believed_until(now), used_at: now, digest });
    }

    /// A request on this runner has ended, so Ollama's keep-alive starts again.
    pub(crate) fn used(&mut self, key: &Key, now: Instant) {
        if let Some(resident) = self.residents.iter_mut().find(|resident| resident.key == *key) {
            (resident.until, resident.used_at) = (believed_until(now), now);
        }
    }

    /// Ends all beliefs: Ollama was away, said that nothing is loaded, or a load failed or was given up.
    pub(crate) fn lost(&mut self) {
        self.residents.clear();
    }

    /// Ollama is told to unload this model.
    pub(crate) fn unloaded(&mut self, model: &ModelName) {
        self.residents.retain(|resident| resident.key.model() != model);
    }

    /// Whether a request for this runner needs no preload. The keep-alive cannot end while its requests are in flight.
    pub(crate) fn has(&self, key: &Key, is_running: bool, now: Instant) -> bool {
        let its = |resident: &Resident| resident.key == *key && (is_running || now < resident.until);
        self.residents.iter().any(its)
    }

    /// All that need no preload.
    pub(crate) fn all(&self, is_running: impl Fn(&Key) -> bool, now: Instant) -> Vec<Key> {
        let are = self.residents.iter().filter(|resident| now < resident.until || is_running(&resident.key));
        are.map(|resident| Key::clone(&resident.key)).collect()
    }

    /// Makes room for a load of this runner. Returns what must be unloaded before, which no longer counts as loaded:
    /// what does not fit beside it, and what is too much. `waits_since` tells since when a runner has waited for its next
    /// turn, if it has work. One without work goes first, the longest unused before others. Of those with work the one
    /// goes whose turn comes last.
    pub(crate) fn make_room(
        &mut self,
        key: &Key,
        waits_since: impl Fn(&Key) -> Option<Instant>,
        now: Instant,
    ) -> Vec<Key> {
        // Ollama itself unloads the runner of the same model.
        self.residents.retain(|resident| resident.key.model() != key.model() && now < resident.until);
        if self.room == 1 {
            self.lost();
            return Vec::new();
        }
        let apart = &self.apart;
        let is_apart = |one: &mut Resident| apart.contains(&(Key::clone(key), Key::clone(&one.key)));
        let mut unload: Vec<Key> = self.residents.extract_if(.., is_apart).map(|gone| gone.key).collect();
        while self.residents.len() >= self.room {
            let place = |nth: &usize| {
                let resident = &self.residents[*nth];
                let waits = waits_since(&resident.key);
                (waits.is_none(), waits, Reverse(resident.used_at))
            };
            let Some(nth) = (0..self.residents.len()).max_by_key(place) else { break };
            unload.push(self.residents.remove(nth).key);
        }
        unload
    }
}

fn believed_until(now: Instant) -> Instant {
    now + LoadKey::KEEP_ALIVE - MARGIN
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::scheduling::samples::key;

    const A: &str = "a:latest";
    const B: &str = "b:latest";
    const C: &str = "c:latest";

    /// What Ollama lists as loaded: each model with weights of its own.
    fn listed(names: &[&str]) -> Vec<RunningModel> {
        let model =
            |name: &&str| serde_json::from_value(json!({"name": name, "digest": format!("of {name}")}));
        names.iter().map(|name| model(name).unwrap()).collect()
    }

    /// A residency in which these were loaded one second after the other.
    fn with(room: usize, names: &[&str]) -> (Residency, Instant) {
        let (mut residency, mut now) = (Residency::new(room), Instant::now());
        for nth in 0..names.len() {
            now += Duration::from_secs(1);
            residency.loaded(key(names[nth]), &listed(&names[..=nth]), now);
        }
        (residency, now)
    }

    fn has(residency: &Residency, text: &str, now: Instant) -> bool {
        residency.has(&key(text), false, now)
    }

    #[test]
    fn with_room_for_one_only_what_was_preloaded_last_is_believed_to_be_there() {
        let (mut residency, now) = with(1, &[A]);
        assert!(has(&residency, A, now) && !has(&residency, B, now));
        assert_eq!(residency.make_room(&key(B), |_| None, now), [], "Ollama chooses");
        assert!(!has(&residency, A, now));
        residency.loaded(key(B), &listed(&[A, B]), now);
        assert!(!has(&residency, A, now) && has(&residency, B, now));
        residency.lost();
        assert!(!residency.has(&key(B), true, now));
    }

    #[test]
    fn the_belief_ends_before_ollama_lets_go_and_every_request_prolongs_it() {
        let (mut residency, start) = with(1, &[A]);
        let last_moment = start + LoadKey::KEEP_ALIVE - MARGIN;
        assert!(!has(&residency, A, last_moment));
        assert!(residency.has(&key(A), true, last_moment), "a request in flight keeps it");
        residency.used(&key(A), last_moment);
        assert!(has(&residency, A, start + LoadKey::KEEP_ALIVE));
        residency.used(&key(B), start + LoadKey::KEEP_ALIVE * 2);
        assert!(!has(&residency, A, start + LoadKey::KEEP_ALIVE * 2), "another key's does not");
    }

    #[test]
    fn a_load_takes_the_place_of_the_same_models_runner_and_of_nothing_else_while_there_is_room() {
        let (mut residency, now) = with(2, &[A, B]);
        assert_eq!(residency.make_room(&key("a:latest num_ctx=8192"), |_| None, now), []);
        residency.loaded(key("a:latest num_ctx=8192"), &listed(&[A, B]), now);
        assert!(!has(&residency, A, now) && has(&residency, B, now));
        assert_eq!(residency.all(|_| false, now), [key(B), key("a:latest num_ctx=8192")]);
    }

    #[test]
    fn an_unload_ends_the_belief_in_every_runner_of_its_model_and_in_no_other() {
        let (mut residency, now) = with(2, &["a:latest num_ctx=8192", B]);
        residency.unloaded(key(A).model());
        assert_eq!(residency.all(|_| false, now), [key(B)]);
        assert_eq!(residency.make_room(&key(C), |_| None, now), [], "it has made room");
    }

    #[test]
    fn what_has_no_work_makes_room_first_and_then_whose_turn_comes_last() {
        let victims = |waits: &[(&str, u64)]| {
            let (mut residency, now) = with(2, &[A, B]);
            let since = |one: &Key| {
                let its = waits.iter().find(|waits| key(waits.0) == *one)?;
                Some(now + Duration::from_secs(its.1))
            };
            residency.make_room(&key(C), since, now)
        };
        assert_eq!(victims(&[]), [key(A)], "the longest unused");
        assert_eq!(victims(&[(A, 1)]), [key(B)]);
        assert_eq!(victims(&[(A, 1), (B, 2)]), [key(B)]);
        assert_eq!(victims(&[(A, 2), (B, 1)]), [key(A)]);
    }

    #[test]
    fn two_that_did_not_fit_are_not_loaded_together_again() {
        let (mut residency, now) = with(3, &[A, B]);
        residency.loaded(key(C), &listed(&[B, C]), now);
        assert!(!has(&residency, A, now) && has(&residency, B, now) && has(&residency, C, now));
        assert_eq!(residency.make_room(&key(A), |_| None, now), [key(C)]);
        residency.loaded(key(A), &listed(&[A, B]), now);
        assert_eq!(residency.make_room(&key(C), |_| None, now), [key(A)]);
    }

    #[test]
    fn a_missing_name_alone_proves_nothing() {
        // Two names of the same weights: Ollama lists one of them.
        let (mut residency, now) = with(3, &[A]);
        residency.loaded(key(B), &listed(&[A]), now);
        residency.loaded(key(C), &listed(&[A, C]), now);
        assert!(has(&residency, A, now) && has(&residency, B, now) && has(&residency, C, now));
        residency.loaded(key(A), &[], now);
        assert!(has(&residency, B, now), "Ollama did not answer");
    }
}
