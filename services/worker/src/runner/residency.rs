//! Which key we believe to be loaded. An answered preload of our own begins the belief. `/api/ps` may end it but must
//! never begin it, because that list shows several names with the same weights under only one of them. A wrong belief
//! costs little: a resident model answers a needless preload at once, and a request for a model that is gone loads it
//! by itself.
//!
//! The belief is about one key at a time. A host with room for several models may still have an older one loaded, and
//! then answers its preload at once. Ollama chooses which model it unloads when it needs room.

use std::time::Duration;

use foreman_ollama::LoadKey;
use tokio::time::Instant;

/// Stop believing this much before the keep-alive ends. Ollama counts it by its own clock, and starts when a request
/// ends, which we hear of a little later.
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

    /// A request on this key has ended, so Ollama's keep-alive starts again.
    pub(crate) fn used(&mut self, key: &K, now: Instant) {
        if let Some(belief) = self.0.as_mut().filter(|belief| belief.key == *key) {
            belief.until = now + LoadKey::KEEP_ALIVE - MARGIN;
        }
    }

    /// Ends the belief: Ollama was away, said that nothing is loaded, or a load was begun, failed or given up.
    pub(crate) fn lost(&mut self) {
        self.0 = None;
    }

    /// Whether a request for this key needs no preload. The keep-alive cannot end while requests are in flight.
    pub(crate) fn has(&self, key: &K, in_flight: bool, now: Instant) -> bool {
        self.0.as_ref().is_some_and(|belief| belief.key == *key && (in_flight || now < belief.until))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_preloaded_last_is_believed_to_be_there() {
        let (mut residency, now) = (Residency::default(), Instant::now());
        assert!(!residency.has(&'a', false, now));
        residency.loaded('a', now);
        assert!(residency.has(&'a', false, now));
        residency.loaded('b', now);
        assert!(!residency.has(&'a', false, now) && residency.has(&'b', false, now));
        residency.lost();
        assert!(!residency.has(&'b', true, now));
    }

    #[test]
    fn the_belief_ends_before_ollama_lets_go_and_every_request_prolongs_it() {
        let (mut residency, start) = (Residency::default(), Instant::now());
        residency.loaded('a', start);
        let last_moment = start + LoadKey::KEEP_ALIVE - MARGIN;
        assert!(!residency.has(&'a', false, last_moment));
        assert!(residency.has(&'a', true, last_moment), "a request in flight keeps it");
        residency.used(&'a', last_moment);
        assert!(residency.has(&'a', false, start + LoadKey::KEEP_ALIVE));
        residency.used(&'b', start + LoadKey::KEEP_ALIVE * 2);
        assert!(!residency.has(&'a', false, start + LoadKey::KEEP_ALIVE * 2), "another key's does not");
    }
}
