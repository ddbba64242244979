//! A bound on the bytes that requests and answers hold in memory together.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::problem::Problem;

/// So many bytes at the same time, whoever holds them.
#[derive(Debug, Clone)]
pub(crate) struct Memory {
    free: Arc<Semaphore>,
    capacity: usize,
}

/// Bytes held; given back when dropped.
#[derive(Debug)]
pub(crate) struct Held(OwnedSemaphorePermit);

impl Memory {
    pub(crate) fn new(capacity: usize) -> Self {
        let capacity = capacity.min(Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(capacity)), capacity }
    }

    /// Takes so many bytes now, or says that the system is busy. What is larger than everything takes everything.
    pub(crate) fn take(&self, bytes: usize) -> Result<Held, Problem> {
        let permits = u32::try_from(bytes.min(self.capacity)).unwrap_or(u32::MAX);
        let held = Arc::clone(&self.free).try_acquire_many_owned(permits);
        held.map(Held).map_err(|_| {
            Problem::unavailable("busy", "too much is under way at this moment; try again in a few seconds")
                .retry_after(Duration::from_secs(2))
        })
    }
}

impl Held {
    /// Makes one of two.
    pub(crate) fn merge(&mut self, other: Self) {
        self.0.merge(other.0);
    }
}

/// Bytes on their way out, with the memory they hold until the client has taken them.
pub(crate) struct Outgoing {
    data: Vec<u8>,
    _held: Held,
}

impl Outgoing {
    pub(crate) fn bytes(data: Vec<u8>, held: Held) -> Bytes {
        Bytes::from_owner(Self { data, _held: held })
    }
}

impl AsRef<[u8]> for Outgoing {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_bounded_and_given_back() {
        let memory = Memory::new(100);
        let mut held = memory.take(60).unwrap();
        assert!(memory.take(41).is_err());
        held.merge(memory.take(40).unwrap());
        assert!(memory.take(1).is_err());
        drop(held);
        assert!(memory.take(1_000).is_ok(), "what is larger than everything goes alone");
    }
}
