//! Word of what was given back: seats, and bytes of heavy webhooks. The dispatcher waits for it, and looks at these lanes again.

use std::collections::HashSet;
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};

use foreman_store::LaneId;
use tokio::sync::Notify;

#[derive(Debug, Default)]
pub(super) struct Freed {
    lanes: Mutex<HashSet<LaneId>>,
    notify: Notify,
}

impl Freed {
    pub(super) fn tell(&self, lane: LaneId) {
        self.lanes().insert(lane);
        self.notify.notify_one();
    }

    /// Returns once something was given back since the last time.
    pub(super) async fn changed(&self) {
        self.notify.notified().await;
    }

    /// The lanes that gave something back since the last call.
    pub(super) fn take(&self) -> HashSet<LaneId> {
        mem::take(&mut *self.lanes())
    }

    fn lanes(&self) -> MutexGuard<'_, HashSet<LaneId>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
