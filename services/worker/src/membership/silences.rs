//! Decides which processes are dead. A process is dead when this one has seen its row unchanged for its whole TTL, by
//! this process' own monotonic clock. The row's time comes from Postgres' clock, which somebody may set, so it must
//! never decide who lives.

use std::collections::HashMap;
use std::hash::Hash;

use foreman_store::Heartbeat;
use tokio::time::Instant;

/// For how long the row of each process of one kind has not changed. Pure.
#[derive(Debug)]
pub(crate) struct Silences<Id>(HashMap<Id, (Heartbeat<Id>, Instant)>);

impl<Id> Default for Silences<Id> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<Id: Copy + Eq + Hash> Silences<Id> {
    /// Notes the rows that a look has found, and returns those of dead processes. A row may have changed right before
    /// the answer that first showed it, and a later look proves the row only as it was at its question. So a silence
    /// is counted from the first answer to the last question.
    pub(crate) fn look(
        &mut self,
        heartbeats: Vec<Heartbeat<Id>>,
        asked: Instant,
        answered: Instant,
    ) -> Vec<Heartbeat<Id>> {
        let before = std::mem::take(&mut self.0);
        self.0 = heartbeats
            .into_iter()
            .map(|heartbeat| {
                let known = before.get(&heartbeat.id).filter(|(last, _)| *last == heartbeat);
                (heartbeat.id, (heartbeat, known.map_or(answered, |(_, since)| *since)))
            })
            .collect();
        let is_dead = |heartbeat: &Heartbeat<Id>, since: Instant| {
            asked.saturating_duration_since(since) >= heartbeat.ttl
        };
        self.0.values().filter(|(seen, since)| is_dead(seen, *since)).map(|(seen, _)| *seen).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chrono::{DateTime, TimeDelta, Utc};
    use foreman_store::WorkerId;

    use super::*;

    const TTL: Duration = Duration::from_secs(20);

    /// Whether a worker is dead after looks at these seconds. Each look comes with the time in the worker's row.
    fn is_dead(looks: &[(u64, DateTime<Utc>)]) -> bool {
        let (mut silences, start, worker) = (Silences::default(), Instant::now(), WorkerId::generate());
        let mut dead = Vec::new();
        for (seconds, renewed_at) in looks {
            let now = start + Duration::from_secs(*seconds);
            dead = silences.look(vec![Heartbeat { id: worker, renewed_at: *renewed_at, ttl: TTL }], now, now);
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
        let seen = Heartbeat { id: worker, renewed_at: DateTime::UNIX_EPOCH, ttl: TTL };
        silences.look(vec![seen], start, start);
        silences.look(vec![], start + TTL / 2, start + TTL / 2);
        assert_eq!(silences.look(vec![seen], start + TTL, start + TTL), []);
    }
}
