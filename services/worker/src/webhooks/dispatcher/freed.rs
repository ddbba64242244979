//! Word of what was given back: seats, and bytes of heavy webhooks. The dispatcher waits for it, and looks at these lanes again.
//!
//! What a failed attempt gives back is told a moment later, together with what others give back by then. Otherwise a client
//! with thousands of receivers that hang would cost a look and a claim for each of them, which everybody waits for.

use std::collections::HashSet;
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foreman_store::LaneId;
use tokio::sync::Notify;
use tokio::time::sleep;

/// So long after the first failed attempt the dispatcher hears of it and of all later ones. The next attempt at its receiver
/// is seconds away.
const FAILURES_GATHER_FOR: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
pub(super) struct Freed {
    lanes: Mutex<HashSet<LaneId>>,
    notify: Notify,
    notify_later: Notify,
}

impl Freed {
    pub(super) fn tell(&self, lane: LaneId) {
        self.lanes().insert(lane);
        self.notify.notify_one();
    }

    /// A failed attempt has given something back.
    pub(super) fn tell_later(&self, lane: LaneId) {
        self.lanes().insert(lane);
        self.notify_later.notify_one();
    }

    /// Returns once something was given back since the last time. A caller that does not wait to the end calls
    /// [`take`](Self::take) before it waits again, so that nothing is missed.
    pub(super) async fn changed(&self) {
        let later = async {
            self.notify_later.notified().await;
            sleep(FAILURES_GATHER_FOR).await;
        };
        tokio::select! {
            () = self.notify.notified() => {}
            () = later => {}
        }
    }

    /// The lanes that gave something back since the last call.
    pub(super) fn take(&self) -> HashSet<LaneId> {
        mem::take(&mut *self.lanes())
    }

    fn lanes(&self) -> MutexGuard<'_, HashSet<LaneId>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
