//! Wake-ups, within a process and between processes. `NOTIFY` only hastens what a poll would find anyway: it is sent
//! after the commit it speaks of, from a connection of its own, and many become one. The file `wake/write.rs` has the
//! list of which write frees whose work.
//!
//! Whoever waits subscribes first, then queries, then waits: a change between the last two is not lost.

mod write;

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use sqlx::postgres::PgListener;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, MissedTickBehavior, interval, sleep, timeout, timeout_at},
};

pub(crate) use write::Write;

use crate::{Store, StoreError};

const CHANNEL: &str = "foreman";

/// Between two notifications of one process: Postgres hands them out one at a time, under a lock of its own.
const SPACING: Duration = Duration::from_millis(2);

/// How often a process sends a beat that it must hear itself. Silence on either of its two connections is noticed by that
/// alone: nobody knows when a wake-up should have come.
const BEAT: Duration = Duration::from_secs(3);
/// Without a beat for this long the connections are made anew.
const SILENCE: Duration = Duration::from_secs(8);

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
    /// The server process behind the connection that tells; 0 until its first answer.
    teller: AtomicU32,
}

impl Default for Wakeups {
    fn default() -> Self {
        Self(Arc::new(Inner {
            topics: std::array::from_fn(|_| watch::Sender::new(())),
            pending: AtomicU32::new(0),
            to_tell: Notify::new(),
            teller: AtomicU32::new(0),
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

    /// Carries wake-ups between this process and the others until Postgres goes away, or falls silent. The caller logs
    /// that and calls again; meanwhile everybody polls.
    pub async fn run(&self, store: &Store) -> Result<Infallible, StoreError> {
        let beat = format!("beat {:032x}", rand::random::<u128>());
        tokio::select! {
            result = self.hear(store, &beat) => result,
            result = self.send(store, &beat) => result,
        }
    }

    async fn hear(&self, store: &Store, beat: &str) -> Result<Infallible, StoreError> {
        let listen = async {
            let mut listener = PgListener::connect_with(&store.direct_pool()).await?;
            listener.listen(CHANNEL).await?;
            Ok(listener)
        };
        let mut listener = answered(listen).await?;
        // Whatever was told while nobody listened is unknown: everybody looks once.
        Topic::ALL.into_iter().for_each(|topic| self.wake(topic));
        let mut heard_beat = Instant::now();
        loop {
            let Ok(received) = timeout_at(heard_beat + SILENCE, listener.try_recv()).await else {
                return Err(silent());
            };
            let Some(notification) = received? else {
                return Err(StoreError::Away(sqlx::Error::PoolClosed));
            };
            let word = notification.payload();
            if word == beat {
                heard_beat = Instant::now();
            }
            if notification.process_id() == self.0.teller.load(Ordering::Acquire) {
                // Our own word: whoever waits for it here was woken as it was told.
                continue;
            }
            // A word that this version does not know is another's business.
            if let Some(topic) = Topic::ALL.into_iter().find(|topic| topic.name() == word) {
                self.wake(topic);
            }
        }
    }

    async fn send(&self, store: &Store, beat: &str) -> Result<Infallible, StoreError> {
        let mut connection = store.connect_directly().await?;
        // What was to be told while nobody carried it, or as the last connection was lost: the others look once, too.
        self.0.pending.store(u32::MAX, Ordering::Release);
        self.0.to_tell.notify_one();
        let mut beats = interval(BEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let mut words: Vec<String> = Vec::new();
            tokio::select! {
                () = self.0.to_tell.notified() => {}
                _ = beats.tick() => words.push(beat.to_owned()),
            }
            let pending = self.0.pending.swap(0, Ordering::AcqRel);
            let told = Topic::ALL.into_iter().filter(|topic| pending & (1 << *topic as usize) != 0);
            words.extend(told.map(|topic| topic.name().to_owned()));
            if words.is_empty() {
                continue;
            }
            let notify = sqlx::query!(
                r#"-- notify
                SELECT pg_notify($1, topic), pg_backend_pid() AS "teller!" FROM unnest($2::text[]) AS topic"#,
                CHANNEL,
                &words
            );
            let told = answered(notify.fetch_all(&mut connection)).await?;
            if let Some(row) = told.first() {
                self.0.teller.store(row.teller.unsigned_abs(), Ordering::Release);
            }
            sleep(SPACING).await;
        }
    }
}

/// The deadline of what is said on the two connections, which are not of the kind that have one.
async fn answered<T>(answer: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, StoreError> {
    match timeout(SILENCE, answer).await {
        Ok(answer) => Ok(answer?),
        Err(_elapsed) => Err(silent()),
    }
}

fn silent() -> StoreError {
    let said = format!("nothing was heard for {} s", SILENCE.as_secs());
    StoreError::Away(std::io::Error::new(std::io::ErrorKind::TimedOut, said).into())
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
