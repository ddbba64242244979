//! What an api keeps of each client in memory: a count, a semaphore, a lock.
//!
//! A cache would not do here. It throws out what it likes, and a client whose semaphore was thrown out while a permit of it
//! is held would get a second one, and with that twice its part.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use foreman_store::ClientId;

/// Clients remembered; beyond these, the idle ones are forgotten.
const REMEMBERED: usize = 10_000;

/// One `T` for each client. Of a client that was forgotten a new one is made.
pub(super) struct EachClient<T>(Mutex<HashMap<ClientId, Arc<T>>>);

impl<T> Default for EachClient<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> EachClient<T> {
    /// The one of this client. It stays the same for as long as anybody holds it.
    pub(super) fn of(&self, client: ClientId, new: impl FnOnce() -> T) -> Arc<T> {
        let mut clients = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if clients.len() >= REMEMBERED && !clients.contains_key(&client) {
            clients.retain(|_, kept| Arc::strong_count(kept) > 1);
        }
        Arc::clone(clients.entry(client).or_insert_with(|| Arc::new(new())))
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;

    #[test]
    fn a_client_whose_semaphore_is_held_is_not_forgotten_however_many_others_come() {
        let semaphores = EachClient::default();
        let of = |client| semaphores.of(client, || Semaphore::new(1));
        let [busy, idle] = std::array::from_fn(|_| ClientId::generate());
        let permit = of(busy).try_acquire_owned().unwrap();
        of(idle).close();
        for _ in 0..2 * REMEMBERED {
            of(ClientId::generate());
        }
        assert!(of(busy).try_acquire_owned().is_err(), "it has no second one");
        assert!(!of(idle).is_closed(), "this one is new");
        assert!(semaphores.0.lock().unwrap().len() <= REMEMBERED);
        drop(permit);
        assert!(of(busy).try_acquire_owned().is_ok());
    }
}
