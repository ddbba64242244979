//! Wake-ups, within a process and between processes. A wake-up only hastens what a poll would find anyway. `NOTIFY`
//! is sent after the commit, from a connection of its own, and one notification may stand for many commits.
//! `wake/write.rs` lists which write wakes whom, and `wake/carry.rs` carries the wake-ups from process to process.
//!
//! A waiter must subscribe before it queries, and wait after it: then no change between the query and the wait is
//! lost.

mod carry;
mod write;

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use tokio::sync::{Notify, watch};

pub(crate) use write::Write;

/// What may have changed, and who waits for the change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Topic {
    /// A job may be claimable: the holder of a host scans.
    Ready,
    /// A job may become due before the first known one: the janitor looks.
    Scheduled,
    /// Somebody asked to cancel a leased job: its worker aborts the attempt.
    Cancel,
    /// The outbox may have a row: the relay runs.
    Outbox,
    /// A webhook may be due, now or before the first known one: the dispatcher looks.
    Delivery,
    /// Webhooks that are there already may be due, in lanes where nobody expects it: the dispatcher searches all lanes.
    Lane,
    /// Jobs have changed their state: the api answers requests that wait for them, and the next holder of a host
    /// checks whether the former holder has finished.
    Job,
    /// Somebody asks for a model that is not known: the holder of a host publishes its models again. No write causes
    /// this topic.
    Inventory,
    /// The known models of a host have changed: the api reads them. Or a host has come or gone: the others look.
    Published,
    /// A host may be free: a worker that stands by takes it. Or an operator asks something of a host: its holder looks.
    Host,
}

impl Topic {
    pub const ALL: [Self; 10] = [
        Self::Ready,
        Self::Scheduled,
        Self::Cancel,
        Self::Outbox,
        Self::Delivery,
        Self::Lane,
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
            Self::Lane => "lane",
            Self::Job => "job",
            Self::Inventory => "inventory",
            Self::Published => "published",
            Self::Host => "host",
        }
    }
}

/// The wake-ups of one process: it announces its own to the others, and hears theirs.
#[derive(Debug, Clone)]
pub struct Wakeups(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    topics: [watch::Sender<()>; Topic::ALL.len()],
    /// One bit per topic that is still to be announced to the other processes.
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

/// One waiter's subscription to a topic.
#[derive(Debug, Clone)]
pub struct Wakeup(watch::Receiver<()>);

impl Wakeup {
    /// Returns after a wake-up of the topic that came after the last return, or after the subscription.
    pub async fn changed(&mut self) {
        // The sender lives as long as the process' `Wakeups`. Without a sender no wake-up can come, and the caller
        // goes on polling.
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Wakeups {
    /// Subscribes to `topic` from now on.
    pub fn subscribe(&self, topic: Topic) -> Wakeup {
        Wakeup(self.0.topics[topic as usize].subscribe())
    }

    /// Wakes the waiters of this process at once, and those of the others soon. A caller need not call this after a
    /// write, because the store does so itself.
    pub fn tell(&self, topic: Topic) {
        self.tell_all([topic]);
    }

    /// The same for several topics, which travel together.
    fn tell_all(&self, topics: impl IntoIterator<Item = Topic>) {
        let topics: Vec<Topic> = topics.into_iter().collect();
        let told = topics.iter().fold(0, |told, topic| told | 1 << *topic as usize);
        if told != 0 {
            self.0.pending.fetch_or(told, Ordering::AcqRel);
            self.0.to_tell.notify_one();
        }
        // After the other processes: of the tasks that one wakes, tokio runs the last first.
        topics.into_iter().for_each(|topic| self.wake(topic));
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
