//! Which workers are dead: those whose row was seen unchanged for their whole TTL, by our own monotonic clock. Postgres'
//! clock says when a worker renewed and may have been set since; it must never decide who lives.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use foreman_store::{Heartbeat, Store, StoreError, WorkerId};
use tokio::time::Instant;

/// What this process has seen of all workers. Whoever asks for the dead looks, and all of them remember together.
#[derive(Debug, Default)]
pub(crate) struct Peers(Mutex<Silences>);

impl Peers {
    /// Looks at every worker's row. Returns those that are dead, as they were seen: whoever acts on it must prove in the same
    /// statement that the row is still so.
    pub(crate) async fn dead(&self, store: &Store) -> Result<Vec<Heartbeat>, StoreError> {
        let asked = Instant::now();
        let heartbeats = store.heartbeats().await?;
        let mut silences = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(silences.look(heartbeats, asked, Instant::now()))
    }
}

/// Since when each worker has been silent. Pure.
#[derive(Debug, Default)]
struct Silences(HashMap<WorkerId, (Heartbeat, Instant)>);

impl Silences {
    /// Notes what a look has found that was asked for and answered at these times. A row may have changed right before the
    /// answer that first shows it, and was so for certain at the question of a later look: that is the silence.
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

    /// Whether a worker is dead after looks at these seconds, each with what its row said then.
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
        assert!(!is_dead(&[(0, once)]), "however old the row is: nobody has watched it");
        assert!(!is_dead(&[(0, once), (10, once), (19, once)]));
        assert!(is_dead(&[(0, once), (10, once), (20, once)]));
        assert!(!is_dead(&[(0, once), (10, again), (20, again)]));
        assert!(is_dead(&[(0, once), (10, again), (30, again)]));
    }

    #[test]
    fn a_clock_that_is_set_makes_nobody_dead_and_lets_nobody_live() {
        let now = Utc::now();
        for step in
            [TimeDelta::seconds(60), TimeDelta::seconds(-60), TimeDelta::days(16), TimeDelta::days(-16)]
        {
            assert!(!is_dead(&[(0, now), (5, now + step), (19, now + step)]), "{step}");
            assert!(is_dead(&[(0, now), (5, now + step), (25, now + step)]), "{step}");
        }
    }

    #[test]
    fn a_worker_that_is_seen_again_under_its_id_is_new() {
        let (mut silences, start, worker) = (Silences::default(), Instant::now(), WorkerId::generate());
        let seen = Heartbeat { worker, renewed_at: DateTime::UNIX_EPOCH, ttl: TTL };
        silences.look(vec![seen], start, start);
        silences.look(vec![], start + TTL / 2, start + TTL / 2);
        assert_eq!(silences.look(vec![seen], start + TTL, start + TTL), []);
    }
}
