//! Carries wake-ups between processes over two connections that bypass any pooler: one sends, one listens.
//!
//! Must never seem healthy while one of the two connections is silent. So the process must hear each beat that it
//! sends.

use std::{
    convert::Infallible,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use sqlx::postgres::PgListener;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout, timeout_at};

use super::{Topic, Wakeups};
use crate::db::connect::Store;
use crate::db::error::StoreError;

const CHANNEL: &str = "foreman";

/// The pause between two notifications of one process that sends many. Postgres delivers notifications one at a time, under a
/// lock.
const SPACING: Duration = Duration::from_millis(2);

/// A process that sends few sends so many of them without a pause: the second of two commits need not wait because they
/// came together.
const AT_ONCE: u32 = 8;

/// How often a process sends a beat that it must hear itself. Only a missing beat shows that one of the two
/// connections is silent, because nobody knows when a wake-up should have come.
const BEAT: Duration = Duration::from_secs(3);
/// Without a beat for this long the process makes both connections anew.
const SILENCE: Duration = Duration::from_secs(8);

impl Wakeups {
    /// Carries wake-ups between this process and the others until Postgres goes away or falls silent. The caller logs
    /// the error and calls again. Meanwhile all waiters poll.
    pub async fn run(&self, store: &Store) -> Result<Infallible, StoreError> {
        let beat = format!("beat {:032x}", rand::random::<u128>());
        // The server process of the sending connection; 0 until its first answer.
        let teller = AtomicU32::new(0);
        tokio::select! {
            result = self.hear(store, &beat, &teller) => result,
            result = self.send(store, &beat, &teller) => result,
        }
    }

    async fn hear(&self, store: &Store, beat: &str, teller: &AtomicU32) -> Result<Infallible, StoreError> {
        let listen = async {
            let mut listener = PgListener::connect_with(&store.direct_pool()).await?;
            listener.listen(CHANNEL).await?;
            Ok(listener)
        };
        let mut listener = answered(listen).await?;
        // Wake-ups sent while this process did not listen are lost, so wake every waiter once.
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
            if notification.process_id() == teller.load(Ordering::Acquire) {
                // Our own notification: the waiters of this process were woken when it was sent.
                continue;
            }
            // A word that this version does not know is meant for a newer version.
            if let Some(topic) = Topic::ALL.into_iter().find(|topic| topic.name() == word) {
                self.wake(topic);
            }
        }
    }

    async fn send(&self, store: &Store, beat: &str, teller: &AtomicU32) -> Result<Infallible, StoreError> {
        // A lost wake-up costs no more than a poll, so none waits for the disk.
        let mut connection = store.connect_directly_unflushed().await?;
        // Wake-ups from before this connection, or from the moment the last one broke, may be lost. So announce every
        // topic once.
        self.0.pending.store(u32::MAX, Ordering::Release);
        self.0.to_tell.notify_one();
        let mut beats = interval(BEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut spaced = Spaced { until: Instant::now() };
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
                teller.store(row.teller.unsigned_abs(), Ordering::Release);
            }
            sleep_until(spaced.sent(Instant::now())).await;
        }
    }
}

/// The notifications that were sent, as if each had come [`SPACING`] after the one before.
struct Spaced {
    /// When the next one would come. It may be sent [`AT_ONCE`] of them earlier.
    until: Instant,
}

impl Spaced {
    /// Counts a notification that was sent at `now`. Returns when the next one may be sent.
    fn sent(&mut self, now: Instant) -> Instant {
        self.until = self.until.max(now) + SPACING;
        self.until - SPACING * AT_ONCE
    }
}

/// A deadline for statements on the two connections, because they are no [`Conn`](crate::db::conn::Conn).
async fn answered<T>(answer: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, StoreError> {
    match timeout(SILENCE, answer).await {
        Ok(answer) => Ok(answer?),
        Err(_elapsed) => Err(silent()),
    }
}

fn silent() -> StoreError {
    let said = format!("Postgres was silent for {} s", SILENCE.as_secs());
    StoreError::Away(std::io::Error::new(std::io::ErrorKind::TimedOut, said).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_notifications_have_no_pause_between_them_and_many_have() {
        let mut now = Instant::now();
        let mut spaced = Spaced { until: now };
        for _ in 1..AT_ONCE {
            assert!(spaced.sent(now) < now);
        }
        for _ in 0..100 {
            let next = spaced.sent(now).max(now);
            assert!(next <= now + SPACING);
            now = next;
        }
        assert_eq!(spaced.sent(now), now + SPACING);
        now += SPACING * AT_ONCE;
        assert!(spaced.sent(now) < now, "after a while it sends few again");
    }
}
