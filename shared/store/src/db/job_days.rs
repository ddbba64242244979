//! Which days a statement asks for. The tables of jobs have a partition for each day, most of them in the future. Postgres prepares
//! to search all of them each time, unless it is told the days before it begins: then a claim of one webhook costs half.

use ulid::Ulid;

use crate::id::JobId;

const DAY: u64 = 24 * 3_600 * 1_000;

/// Whole days of jobs, by their ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobDays {
    /// The lowest id of the first day.
    pub(crate) from: JobId,
    /// The lowest id after the last day.
    pub(crate) to: JobId,
}

impl JobDays {
    /// From the day of the job `first` to the day of the job `last`.
    pub fn of(first: JobId, last: JobId) -> Self {
        let lowest_of = |day: u64| JobId::from_ulid(Ulid::from_parts(day * DAY, 0));
        let day_of = |job: JobId| job.timestamp_ms() / DAY;
        Self { from: lowest_of(day_of(first)), to: lowest_of(day_of(last) + 1) }
    }

    /// The days from the first to the last of all these; no day if there are none.
    pub(crate) fn around(days: impl IntoIterator<Item = Self>) -> Self {
        let both = |a: Self, b: Self| Self { from: a.from.min(b.from), to: a.to.max(b.to) };
        days.into_iter().reduce(both).unwrap_or(Self { from: JobId::MAX, to: JobId::MAX })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(ms: u64, low: u128) -> JobId {
        JobId::from_ulid(Ulid::from_parts(ms, low))
    }

    #[test]
    fn days_are_whole_and_have_no_gap() {
        let days = JobDays::of(job(3 * DAY - 1, 7), job(3 * DAY, u128::MAX >> 48));
        assert_eq!((days.from, days.to), (job(2 * DAY, 0), job(4 * DAY, 0)));
        let later = JobDays::of(job(9 * DAY, 0), job(9 * DAY, 0));
        let around = JobDays::around([later, days]);
        assert_eq!((around.from, around.to), (days.from, later.to));
        let none = JobDays::around([]);
        assert!(none.from >= none.to);
    }
}
