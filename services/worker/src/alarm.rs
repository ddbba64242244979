//! What ends the wait of a role between two rounds: news from another process, or a moment that was set for it.

use std::convert::Infallible;

use foreman_store::wake::Wakeup;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

/// Rings at one moment, which each round may set anew, and for whoever else has news.
#[derive(Debug)]
pub(crate) struct Alarm {
    /// For [`background::repeat`](foreman_runtime::background::repeat).
    pub(crate) wake: Notify,
    next: watch::Sender<Option<Instant>>,
}

impl Alarm {
    pub(crate) fn new() -> Self {
        Self { wake: Notify::new(), next: watch::Sender::new(None) }
    }

    /// Rings at this moment, and not at any that was set before.
    pub(crate) fn set(&self, moment: Option<Instant>) {
        self.next.send_replace(moment);
    }

    /// Rings when its moment comes, for as long as it is polled.
    async fn ring(&self) -> Infallible {
        let mut set = self.next.subscribe();
        loop {
            let next = *set.borrow_and_update();
            tokio::select! {
                () = at(next) => {
                    self.set(None);
                    self.wake.notify_one();
                }
                // The sender is `self`: it cannot be gone.
                _ = set.changed() => {}
            }
        }
    }

    /// Rings for this news too.
    pub(crate) async fn ring_for(&self, mut news: Wakeup) -> Infallible {
        let told = async {
            loop {
                news.changed().await;
                self.wake.notify_one();
            }
        };
        tokio::select! {
            never = self.ring() => never,
            never = told => never,
        }
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use foreman_store::wake::{Topic, Wakeups};

    use super::*;

    /// How long it takes until the alarm has rung once.
    async fn rings_after(alarm: &Alarm, wakeups: &Wakeups) -> Duration {
        let start = Instant::now();
        tokio::select! {
            never = alarm.ring_for(wakeups.subscribe(Topic::Delivery)) => match never {},
            () = alarm.wake.notified() => start.elapsed(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_rings_at_the_moment_that_was_set_last_and_once() {
        let (alarm, wakeups) = (Alarm::new(), Wakeups::default());
        alarm.set(Some(Instant::now() + Duration::from_secs(60)));
        alarm.set(Some(Instant::now() + Duration::from_secs(3)));
        assert_eq!(rings_after(&alarm, &wakeups).await, Duration::from_secs(3));
        let again = tokio::time::timeout(Duration::from_secs(600), rings_after(&alarm, &wakeups));
        assert!(again.await.is_err(), "nothing was set since");
    }

    #[tokio::test(start_paused = true)]
    async fn it_rings_at_once_for_news() {
        let (alarm, wakeups) = (Alarm::new(), Wakeups::default());
        alarm.set(Some(Instant::now() + Duration::from_secs(60)));
        let told = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            wakeups.tell(Topic::Delivery);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            after = rings_after(&alarm, &wakeups) => assert_eq!(after, Duration::from_secs(1)),
            () = told => {}
        }
    }
}
