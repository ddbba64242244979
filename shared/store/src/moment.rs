//! Postgres' time, as a process knows it between two statements.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::SystemTime,
};

use chrono::{DateTime, TimeDelta, Utc};
use ulid::{Generator, Ulid};

use crate::{JobId, Store, StoreError};

/// The offset between this machine's clock and Postgres', learned from each flush, and the ids that are stamped with
/// it: two machines whose clocks disagree still give out ids in one order.
#[derive(Debug, Clone, Default)]
pub struct Clock(Arc<Inner>);

#[derive(Default)]
struct Inner {
    offset_us: AtomicI64,
    generator: Mutex<Generator>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clock").field("offset_us", &self.offset_us).finish_non_exhaustive()
    }
}

impl Clock {
    /// Notes what Postgres' clock said in an answer to a question asked at `asked`.
    pub(crate) fn learn(&self, asked: SystemTime, postgres: DateTime<Utc>) {
        let asked = DateTime::<Utc>::from(asked);
        let middle = asked + (Utc::now() - asked) / 2;
        if let Some(offset) = (postgres - middle).num_microseconds() {
            self.0.offset_us.store(offset, Ordering::Relaxed);
        }
    }

    /// How far Postgres is ahead of this machine.
    pub fn offset(&self) -> TimeDelta {
        TimeDelta::microseconds(self.0.offset_us.load(Ordering::Relaxed))
    }

    /// Postgres' time now, by the last that was learned.
    pub fn now(&self) -> DateTime<Utc> {
        Utc::now() + self.offset()
    }

    /// A new id, above every other that this process gave out.
    pub fn next_job_id(&self) -> JobId {
        let mut generator = self.0.generator.lock().unwrap_or_else(PoisonError::into_inner);
        let ulid = match generator.generate_from_datetime(self.now().into()) {
            Ok(ulid) => ulid,
            // 2^80 ids of one millisecond are used up: only a random start near the end can bring this.
            Err(overflow) => overflow.commit_overflow_random(),
        };
        JobId::from_ulid(ulid)
    }
}

impl Store {
    /// Asks Postgres for its time, and returns how far it is ahead of this machine.
    pub async fn learn_time(&self) -> Result<TimeDelta, StoreError> {
        let mut conn = self.open().await?;
        let asked = SystemTime::now();
        let now = sqlx::query_scalar!(
            r#"-- learn_time
            SELECT clock_timestamp() AS "now!""#
        )
        .fetch_one(&mut conn)
        .await?;
        self.clock().learn(asked, now);
        conn.done().await?;
        Ok(self.clock().offset())
    }
}

/// The lowest id that any job made at `moment` can have.
pub fn ulid_floor(moment: DateTime<Utc>) -> JobId {
    JobId::from_ulid(Ulid::from_parts(u64::try_from(moment.timestamp_millis()).unwrap_or(0), 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_one_process_rise_even_when_the_clock_falls() {
        let clock = Clock::default();
        let mut last = clock.next_job_id();
        for step in 0..1_000 {
            if step == 500 {
                clock.learn(SystemTime::now(), Utc::now() - TimeDelta::seconds(30));
            }
            let next = clock.next_job_id();
            assert!(next > last, "step {step}");
            last = next;
        }
    }

    #[test]
    fn ids_are_stamped_with_the_time_of_postgres() {
        let clock = Clock::default();
        clock.learn(SystemTime::now(), Utc::now() + TimeDelta::hours(1));
        let stamped = clock.next_job_id();
        assert!(stamped > ulid_floor(Utc::now() + TimeDelta::minutes(59)));
        assert!(stamped < ulid_floor(Utc::now() + TimeDelta::minutes(61)));
    }
}
