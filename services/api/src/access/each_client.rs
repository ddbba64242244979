//! Keeps one value per client in memory, for example a semaphore or a lock.
//!
//! A cache would be wrong here, because a cache chooses itself what to drop. If it dropped a client's semaphore while somebody
//! holds a permit of this semaphore, the client would get a second semaphore, and so twice its share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use foreman_store::ClientId;

/// At most this many clients are remembered, as long as not more are busy. When one more comes, every idle client is forgotten.
const REMEMBERED: usize = 10_000;

/// One `T` per client. A client that was forgotten gets a new `T`.
pub(crate) struct EachClient<T>(Mutex<HashMap<ClientId, Arc<T>>>);

impl<T> Default for EachClient<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> EachClient<T> {
    /// The `T` of this client. It stays the same for as long as anybody holds it.
    pub(crate) fn of(&self, client: ClientId, new: impl FnOnce() -> T) -> Arc<T> {
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
    fn a_client_whose_semaphore_is_in_use_is_not_forgotten_when_many_others_come() {
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
