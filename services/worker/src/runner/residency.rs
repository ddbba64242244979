//! What we believe to be loaded. Our own preloads and their answers say so; `/api/ps` may end the belief but never
//! begin one, because names that share weights show under one of them. A wrong belief costs little: a resident model
//! answers a preload at once, and one that is gone is loaded by the request itself.
//!
//! One key at a time. A host that keeps several may still have an older one, and then answers its preload at once;
//! which of them goes when room is needed is left to Ollama for now.

use std::time::Duration;

use foreman_ollama::LoadKey;
use tokio::time::Instant;

/// Ollama counts its keep-alive by its own clock, from an end that we hear of later.
const MARGIN: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct Residency<K>(Option<Belief<K>>);

#[derive(Debug)]
struct Belief<K> {
    key: K,
    until: Instant,
}

impl<K> Default for Residency<K> {
    fn default() -> Self {
        Self(None)
    }
}

impl<K: PartialEq> Residency<K> {
    /// A preload of this key was answered.
    pub(crate) fn loaded(&mut self, key: K, now: Instant) {
        self.0 = Some(Belief { key, until: now + LoadKey::KEEP_ALIVE - MARGIN });
    }

    /// A request on this key has ended: Ollama keeps it for another while.
    pub(crate) fn used(&mut self, key: &K, now: Instant) {
        if let Some(belief) = self.0.as_mut().filter(|belief| belief.key == *key) {
            belief.until = now + LoadKey::KEEP_ALIVE - MARGIN;
        }
    }

    /// Nothing is believed any more: Ollama was away, or says that nothing is loaded, or a load was given up.
    pub(crate) fn lost(&mut self) {
        self.0 = None;
    }

    /// Whether a request for this key needs no preload. A key with requests in flight does not run out.
    pub(crate) fn holds(&self, key: &K, in_flight: bool, now: Instant) -> bool {
        self.0.as_ref().is_some_and(|belief| belief.key == *key && (in_flight || now < belief.until))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_preloaded_last_is_believed_to_be_there() {
        let (mut residency, now) = (Residency::default(), Instant::now());
        assert!(!residency.holds(&'a', false, now));
        residency.loaded('a', now);
        assert!(residency.holds(&'a', false, now));
        residency.loaded('b', now);
        assert!(!residency.holds(&'a', false, now) && residency.holds(&'b', false, now));
        residency.lost();
        assert!(!residency.holds(&'b', true, now));
    }

    #[test]
    fn the_belief_ends_before_ollama_lets_go_and_every_request_prolongs_it() {
        let (mut residency, start) = (Residency::default(), Instant::now());
        residency.loaded('a', start);
        let last_moment = start + LoadKey::KEEP_ALIVE - MARGIN;
        assert!(!residency.holds(&'a', false, last_moment));
        assert!(residency.holds(&'a', true, last_moment), "a request in flight keeps it");
        residency.used(&'a', last_moment);
        assert!(residency.holds(&'a', false, start + LoadKey::KEEP_ALIVE));
        residency.used(&'b', start + LoadKey::KEEP_ALIVE * 2);
        assert!(!residency.holds(&'a', false, start + LoadKey::KEEP_ALIVE * 2), "another key's does not");
    }
}
