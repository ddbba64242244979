//! Finds the dead workers. A worker is dead when this process has seen its row unchanged for the worker's whole TTL,
//! by this process' own monotonic clock. The row's time comes from Postgres' clock, which somebody may set, so it
//! must never decide who lives.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use foreman_store::{Heartbeat, Store, StoreError, WorkerId};
use tokio::time::Instant;

/// All that this process has seen of the other workers' rows. The loops that ask for dead workers share it, so each
/// look serves all.
#[derive(Debug, Default)]
pub(crate) struct Peers(Mutex<Silences>);

impl Peers {
    /// Looks at every worker's row, and returns the rows of dead workers. A statement that acts on such a row must
    /// prove that the row has not changed since.
    pub(crate) async fn dead(&self, store: &Store) -> Result<Vec<Heartbeat>, StoreError> {
        let asked = Instant::now();
        let heartbeats = store.heartbeats().await?;
        let mut silences = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(silences.look(heartbeats, asked, Instant::now()))
    }
}

/// For how long each worker's row has not changed. Pure.
#[derive(Debug, Default)]
struct Silences(HashMap<WorkerId, (Heartbeat, Instant)>);

impl Silences {
    /// Notes the rows that a look has found, and returns those of dead workers. A row may have changed right before
    /// the answer that first showed it, and a later look proves the row only as it was at its question. So a silence
    /// is counted from the first answer to the last question.
    fn look(&mut self, heartbeats: Vec<Heartbeat>, asked: Instant, answered: Instant) -> Vec<Heartbeat> {
        let before = std::mem::take(&mut self.0);
        self.0 = heartbeats
            .into_iter()
            .map(|heartbeat| {
                let known = before.get(&heartbeat.worker).filter(|(last, _)| *last == heartbeat);
                (heartbeat.worker, (heartbeat, known.map_or(answered, |(_, since)| *since)))
            })
            .collect();
        let is_dead =
            |heartbeat: &Heartbeat, since: Instant| asked.saturating_duration_since(since) >= heartbeat.ttl;
        self.0.values().filter(|(seen, since)| is_dead(seen, *since)).map(|(seen, _)| *seen).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chrono::{DateTime, TimeDelta, Utc};

    use super::*;

    const TTL: Duration = Duration::from_secs(20);

    /// Whether a worker is dead after looks at these seconds. Each look comes with the time in the worker's row.
    fn is_dead(looks: &[(u64, DateTime<Utc>)]) -> bool {
        let (mut silences, start, worker) = (Silences::default(), Instant::now(), WorkerId::generate());
        let mut dead = Vec::new();
        for (seconds, renewed_at) in looks {
            let now = start + Duration::from_secs(*seconds);
            dead = silences.look(vec![Heartbeat { worker, renewed_at: *renewed_at, ttl: TTL }], now, now);
        }
        !dead.is_empty()
    }

    #[test]
    fn a_worker_is_dead_once_its_row_has_not_changed_for_its_ttl() {
        let (once, again) = (DateTime::UNIX_EPOCH, DateTime::UNIX_EPOCH + TimeDelta::seconds(5));
        assert!(!is_dead(&[(0, once)]), "a single look tells nothing, however old the row is");
        assert!(!is_dead(&[(0, once), (10, once), (19, once)]));
        assert!(is_dead(&[(0, once), (10, once), (20, once)]));
        assert!(!is_dead(&[(0, once), (10, again), (20, again)]));
        assert!(is_dead(&[(0, once), (10, again), (30, again)]));
    }

    #[test]
    fn setting_postgres_clock_neither_kills_nor_saves_a_worker() {
        let now = Utc::now();
        for step in
            [TimeDelta::seconds(60), TimeDelta::seconds(-60), TimeDelta::days(16), TimeDelta::days(-16)]
        {
            assert!(!is_dead(&[(0, now), (5, now + step), (19, now + step)]), "{step}");
            assert!(is_dead(&[(0, now), (5, now + step), (25, now + step)]), "{step}");
        }
    }

    #[test]
    fn a_row_that_was_missing_from_one_look_counts_as_new() {
        let (mut silences, start, worker) = (Silences::default(), Instant::now(), WorkerId::generate());
        let seen = Heartbeat { worker, renewed_at: DateTime::UNIX_EPOCH, ttl: TTL };
        silences.look(vec![seen], start, start);
        silences.look(vec![], start + TTL / 2, start + TTL / 2);
        assert_eq!(silences.look(vec![seen], start + TTL, start + TTL), []);
    }
}
