//! Postgres' time, as this process estimates it between two statements, and the ids that are stamped with this time.
//!
//! Must never follow a step of Postgres' clock before the step has lasted.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use chrono::{DateTime, TimeDelta, Utc};
use ulid::{Generator, Ulid};

use crate::id::JobId;

/// Clocks that follow NTP differ by less than this, and so do the errors of slow answers. A larger step of Postgres'
/// clock counts as a glitch until it has lasted. A process whose own clock differs by more is not ready.
pub const CLOCK_TOLERANCE: TimeDelta = TimeDelta::seconds(5);
/// A step is believed when the answers have agreed on it for this long.
const STEP_LASTS: Duration = Duration::from_secs(5);

/// When the clock falls back by less than this, ids go on rising. When it falls back by more, the last ids were
/// stamped during a glitch. The next ids must then have the right day, which has its partitions, and so are lower
/// than the last ones.
const IDS_AHEAD: TimeDelta = TimeDelta::seconds(60);

/// The offset between this machine's clock and Postgres', learned from answers, and the job ids stamped with
/// Postgres' time: two machines whose clocks disagree still give out ids in one order.
#[derive(Debug, Clone, Default)]
pub struct Clock(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    belief: Mutex<Belief>,
    ids: Mutex<Ids>,
}

/// How far Postgres is ahead of this machine.
#[derive(Debug, Default)]
struct Belief {
    offset: Option<TimeDelta>,
    /// Another offset that answers have agreed on, and since when.
    step: Option<(TimeDelta, Instant)>,
}

#[derive(Default)]
struct Ids {
    generator: Generator,
    last_ms: i64,
}

impl std::fmt::Debug for Ids {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ids").field("last_ms", &self.last_ms).finish_non_exhaustive()
    }
}

impl Belief {
    /// Takes in one measurement: Postgres was ahead by `offset` at `heard`.
    fn hear(&mut self, offset: TimeDelta, heard: Instant) {
        let agrees = |other: TimeDelta| (offset - other).abs() <= CLOCK_TOLERANCE;
        let is_believed = match (self.offset, self.step) {
            (None, _) => true,
            (Some(believed), _) if agrees(believed) => true,
            (_, Some((step, since))) if agrees(step) => heard.duration_since(since) >= STEP_LASTS,
            _ => {
                self.step = Some((offset, heard));
                false
            }
        };
        if is_believed {
            *self = Self { offset: Some(offset), step: None };
        }
    }
}

impl Clock {
    /// Learns from an answer that contained Postgres' time; `asked` is when the question was sent. Returns the offset
    /// of this answer.
    pub(crate) fn learn(&self, asked: SystemTime, postgres: DateTime<Utc>) -> TimeDelta {
        let asked = DateTime::<Utc>::from(asked);
        let middle = asked + (Utc::now() - asked) / 2;
        let offset = postgres - middle;
        self.belief().hear(offset, Instant::now());
        offset
    }

    /// How far Postgres is ahead of this machine.
    pub fn offset(&self) -> TimeDelta {
        self.belief().offset.unwrap_or_default()
    }

    /// Postgres' time now, by the believed offset.
    pub fn now(&self) -> DateTime<Utc> {
        Utc::now() + self.offset()
    }

    /// A new id, above every other that this process gave out, unless those were stamped with a time far ahead.
    pub fn next_job_id(&self) -> JobId {
        let now = self.now();
        let mut ids = self.0.ids.lock().unwrap_or_else(PoisonError::into_inner);
        if ids.last_ms > (now + IDS_AHEAD).timestamp_millis() {
            *ids = Ids::default();
        }
        let ulid = match ids.generator.generate_from_datetime(now.into()) {
            Ok(ulid) => ulid,
            // All 2^80 ids of this millisecond are used up. Only a random start near the end can cause this.
            Err(overflow) => overflow.commit_overflow_random(),
        };
        ids.last_ms = i64::try_from(ulid.timestamp_ms()).unwrap_or(i64::MAX);
        JobId::from_ulid(ulid)
    }

    fn belief(&self) -> MutexGuard<'_, Belief> {
        self.0.belief.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The lowest id that a job made at `moment` can have.
pub fn ulid_floor(moment: DateTime<Utc>) -> JobId {
    JobId::from_ulid(Ulid::from_parts(u64::try_from(moment.timestamp_millis()).unwrap_or(0), 0))
}

/// A length of time that Postgres gave in seconds. A negative one counts as zero; only a step of Postgres' clock
/// causes it.
pub(crate) fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value).unwrap_or_default()
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
                clock.belief().offset = Some(TimeDelta::seconds(-30));
            }
            let next = clock.next_job_id();
            assert!(next > last, "step {step}");
            last = next;
        }
    }

    #[test]
    fn a_step_of_the_clock_is_believed_once_it_has_lasted() {
        let (small, large) = (TimeDelta::seconds(2), TimeDelta::days(16));
        let begun = Instant::now();
        let after = |seconds| begun + Duration::from_secs(seconds);
        let mut belief = Belief::default();
        belief.hear(small, begun);
        assert_eq!(belief.offset, Some(small), "the first answer is all there is");
        belief.hear(TimeDelta::zero(), begun);
        assert_eq!(belief.offset, Some(TimeDelta::zero()), "a clock may drift");
        belief.hear(large, begun);
        belief.hear(TimeDelta::zero(), after(1));
        belief.hear(large, after(6));
        assert_eq!(belief.offset, Some(TimeDelta::zero()), "two glitches are not a step");
        belief.hear(large, after(11));
        assert_eq!(belief.offset, Some(large));
        // The way back is the same.
        belief.hear(small, after(12));
        belief.hear(small, after(17));
        assert_eq!(belief.offset, Some(small));
    }

    #[test]
    fn ids_that_were_stamped_far_ahead_are_forgotten() {
        let clock = Clock::default();
        clock.learn(SystemTime::now(), Utc::now() + TimeDelta::days(16));
        assert!(clock.next_job_id() > ulid_floor(Utc::now() + TimeDelta::days(15)));
        clock.belief().offset = None;
        let mut last = clock.next_job_id();
        assert!(last < ulid_floor(Utc::now() + TimeDelta::minutes(1)));
        for _ in 0..1_000 {
            let next = clock.next_job_id();
            assert!(next > last);
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
