//! Wake-ups, within a process and between processes. `NOTIFY` only hastens what a poll would find anyway: it is sent
//! after the commit it speaks of, from a connection of its own, and many become one. The file `wake/write.rs` has the
//! list of which write frees whose work, and `wake/carry.rs` carries the wake-ups from process to process.
//!
//! Whoever waits subscribes first, then queries, then waits: a change between the last two is not lost.

mod carry;
mod write;

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use tokio::sync::{Notify, watch};

pub(crate) use write::Write;

/// What a wake-up says may have changed, and who waits for that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Topic {
    /// There may be a job to claim: the holder of a host scans.
    Ready,
    /// A job may be due sooner than the first that was known: the janitor sets its alarm anew.
    Scheduled,
    /// A lease was marked for cancelling: its worker aborts the attempt.
    Cancel,
    /// There may be an outbox row: the relay takes its turn.
    Outbox,
    /// There may be a webhook to send, now or sooner than the first that was known: the dispatcher looks.
    Delivery,
    /// Jobs have changed their state: the api answers requests that wait for them, and the next holder of a host sees
    /// whether the former one has finished.
    Job,
    /// Somebody misses a model, which is a question and no write: the holder of a host publishes anew.
    Inventory,
    /// What is known of a host's models has changed: the api reads it.
    Published,
    /// A host may be free: a worker that stands by takes it.
    Host,
}

impl Topic {
    pub const ALL: [Self; 9] = [
        Self::Ready,
        Self::Scheduled,
        Self::Cancel,
        Self::Outbox,
        Self::Delivery,
        Self::Job,
        Self::Inventory,
        Self::Published,
        Self::Host,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Scheduled => "scheduled",
            Self::Cancel => "cancel",
            Self::Outbox => "outbox",
            Self::Delivery => "delivery",
            Self::Job => "job",
            Self::Inventory => "inventory",
            Self::Published => "published",
            Self::Host => "host",
        }
    }
}

/// The wake-ups of one process: it tells the others, and hears them.
#[derive(Debug, Clone)]
pub struct Wakeups(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    topics: [watch::Sender<()>; Topic::ALL.len()],
    /// One bit a topic that is still to be told.
    pending: AtomicU32,
    to_tell: Notify,
}

impl Default for Wakeups {
    fn default() -> Self {
        Self(Arc::new(Inner {
            topics: std::array::from_fn(|_| watch::Sender::new(())),
            pending: AtomicU32::new(0),
            to_tell: Notify::new(),
        }))
    }
}

/// One waiter's view of a topic.
#[derive(Debug, Clone)]
pub struct Wakeup(watch::Receiver<()>);

impl Wakeup {
    /// Returns once the topic was woken after the last return, or after the subscription.
    pub async fn changed(&mut self) {
        // The sender lives as long as the process' `Wakeups`; without it no wake-up can come, and the poll of the
        // caller goes on.
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Wakeups {
    /// Hears of `topic` from now on.
    pub fn subscribe(&self, topic: Topic) -> Wakeup {
        Wakeup(self.0.topics[topic as usize].subscribe())
    }

    /// Wakes the waiters of this process at once and those of the others soon. A write needs no such call: the store
    /// tells of its writes by itself.
    pub fn tell(&self, topic: Topic) {
        self.tell_all([topic]);
    }

    /// The same for several topics, which travel together.
    fn tell_all(&self, topics: impl IntoIterator<Item = Topic>) {
        let mut told = 0;
        for topic in topics {
            self.wake(topic);
            told |= 1 << topic as usize;
        }
        if told != 0 {
            self.0.pending.fetch_or(told, Ordering::AcqRel);
            self.0.to_tell.notify_one();
        }
    }

    fn wake(&self, topic: Topic) {
        self.0.topics[topic as usize].send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wake_up_between_query_and_wait_is_not_lost() {
        let wakeups = Wakeups::default();
        let mut wakeup = wakeups.subscribe(Topic::Ready);
        let mut other = wakeups.subscribe(Topic::Cancel);
        wakeups.tell(Topic::Ready);
        wakeup.changed().await;
        tokio::select! {
            biased;
            () = wakeup.changed() => panic!("one tell wakes once"),
            () = other.changed() => panic!("another topic sleeps on"),
            () = std::future::ready(()) => {}
        }
    }
}
