//! Word of what was given back: seats, and bytes of heavy webhooks. The loop that serves the lane waits for it, and looks at the
//! lane again.
//!
//! Where nothing can be waiting for what was given back, the word may come a moment later, together with others. Otherwise
//! a client with hundreds of receivers that fail or drip would cost a look and a claim for each answer, and everybody
//! would wait for these.

use std::collections::HashSet;
use std::future::pending;
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foreman_store::LaneId;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::pace::PerPace;

/// So long after the first of them the loop hears of all that may be told later.
const GATHER_FOR: Duration = Duration::from_millis(50);

pub(super) type Freed = PerPace<Word>;

/// What one pace hears.
#[derive(Debug, Default)]
pub(super) struct Word {
    told: Mutex<Told>,
    notify: Notify,
}

#[derive(Debug, Default)]
struct Told {
    now: HashSet<LaneId>,
    later: HashSet<LaneId>,
    /// When `later` is for now.
    ripe_at: Option<Instant>,
    is_called: bool,
}

impl Word {
    pub(super) fn tell(&self, lane: LaneId) {
        self.told().now.insert(lane);
        self.notify.notify_one();
    }

    pub(super) fn tell_later(&self, lane: LaneId) {
        let mut told = self.told();
        told.later.insert(lane);
        if told.ripe_at.is_none() {
            told.ripe_at = Some(Instant::now() + GATHER_FOR);
            // Whoever waits does not know yet for how long.
            self.notify.notify_one();
        }
    }

    /// Says that the memory has news for this pace.
    pub(super) fn call(&self) {
        self.told().is_called = true;
        self.notify.notify_one();
    }

    /// Returns once something was given back since the last time, or after a call.
    pub(super) async fn changed(&self) {
        loop {
            let ripe_at = self.told().ripe_at;
            let ripe = async {
                match ripe_at {
                    Some(at) => sleep_until(at).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                () = self.notify.notified() => {}
                () = ripe => self.told().ripen(),
            }
            let told = self.told();
            if told.is_called || !told.now.is_empty() {
                return;
            }
        }
    }

    /// The lanes that gave something back since the last time. Whoever asks looks now, so a call is answered.
    pub(super) fn take(&self) -> HashSet<LaneId> {
        let mut told = self.told();
        if told.ripe_at.is_some_and(|at| at <= Instant::now()) {
            told.ripen();
        }
        told.is_called = false;
        mem::take(&mut told.now)
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Told {
    fn ripen(&mut self) {
        self.now.extend(self.later.drain());
        self.ripe_at = None;
    }
}

#[cfg(test)]
mod tests {
    use foreman_store::ClientId;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_may_be_told_later_is_told_together() {
        let (freed, client) = (Word::default(), ClientId::generate());
        let [first, second, urgent] =
            ["http://a", "http://b", "http://c"].map(|origin| LaneId::derive(client, origin));
        freed.tell_later(first);
        assert!(timeout(GATHER_FOR / 2, freed.changed()).await.is_err());
        freed.tell_later(second);
        freed.tell(urgent);
        freed.changed().await;
        assert_eq!(freed.take(), HashSet::from([urgent]));
        let rest = timeout(GATHER_FOR, freed.changed()).await;
        assert!(rest.is_ok(), "the second did not put the first off");
        assert_eq!(freed.take(), HashSet::from([first, second]));
        assert!(timeout(GATHER_FOR * 10, freed.changed()).await.is_err(), "and nothing is told twice");
        freed.tell_later(first);
        tokio::time::advance(GATHER_FOR).await;
        assert_eq!(freed.take(), HashSet::from([first]), "also to a loop that never waits");
        freed.call();
        freed.changed().await;
        assert!(freed.take().is_empty());
        assert!(timeout(GATHER_FOR * 10, freed.changed()).await.is_err(), "a call is answered once");
    }
}
