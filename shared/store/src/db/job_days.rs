//! Up to which day a statement asks for jobs. The tables of jobs have a partition for each day, two weeks of the future included.
//! Postgres prepares to search all of them each time, unless it is told the last day before it begins: then a claim of one
//! webhook costs half.

use chrono::{DateTime, Utc};
use ulid::Ulid;

use crate::id::JobId;

const DAY: u64 = 24 * 3_600 * 1_000;

/// All days up to one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct JobDays {
    /// The lowest id after the last day.
    pub(crate) end: JobId,
}

impl JobDays {
    /// Up to today, or up to the day of this job if that is later: a clock may have been wrong.
    pub fn up_to(job: JobId, now: DateTime<Utc>) -> Self {
        let now = now.timestamp_millis().try_into().unwrap_or_default();
        let last = job.timestamp_ms().max(now) / DAY;
        Self { end: JobId::from_ulid(Ulid::from_parts((last + 1) * DAY, 0)) }
    }

    /// The days of all these; no day if there are none.
    pub(crate) fn of_all(days: impl IntoIterator<Item = Self>) -> Self {
        days.into_iter().max().unwrap_or(Self { end: JobId::from_ulid(Ulid::nil()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_day_is_whole_and_is_today_or_later() {
        let (epoch, start) =
            (DateTime::UNIX_EPOCH, |day: u64| JobId::from_ulid(Ulid::from_parts(day * DAY, 0)));
        let now = epoch + chrono::TimeDelta::days(3);
        assert_eq!(JobDays::up_to(start(1), now).end, start(4));
        assert_eq!(JobDays::up_to(start(9), now).end, start(10));
        let before = JobId::from_ulid(Ulid::from_parts(4 * DAY - 1, u128::MAX >> 48));
        assert_eq!(JobDays::up_to(before, epoch), JobDays::up_to(start(1), now));
        let all = JobDays::of_all([JobDays::up_to(start(9), now), JobDays::up_to(start(1), now)]);
        assert_eq!(all.end, start(10));
    }
}
