//! From where on a chore looks for rows whose time has come. While somebody holds an old snapshot (a backup, say), Postgres
//! keeps the entries of rows long gone, and each look from the first on would walk over all of them.
//!
//! It only hastens. A row whose time had passed before it appeared is found by the next look at everything, soon.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};

/// How far we stay behind the present: what was to come this long ago has been seen.
const BEHIND: TimeDelta = TimeDelta::seconds(2);

/// Between two looks at everything, unless they are slow.
const LOOK_AT_ALL: Duration = Duration::from_secs(5);

/// Looks at everything take at most this part of the time.
const SHARE_OF_LOOKS: u32 = 20;

#[derive(Debug)]
pub(super) struct Since {
    moment: DateTime<Utc>,
    look_at_all: Instant,
}

impl Since {
    pub(super) fn new(now: Instant) -> Self {
        Self { moment: DateTime::UNIX_EPOCH, look_at_all: now }
    }

    /// What to look from, at `now`.
    pub(super) fn moment(&self, now: Instant) -> DateTime<Utc> {
        if now >= self.look_at_all { DateTime::UNIX_EPOCH } else { self.moment }
    }

    /// Learns from a look that began at `began`, when Postgres' time was `postgres`, and ended at `ended`; and whether it may
    /// have left something behind.
    pub(super) fn learn(&mut self, postgres: DateTime<Utc>, began: Instant, ended: Instant, is_full: bool) {
        if is_full {
            return;
        }
        self.moment = postgres - BEHIND;
        if began >= self.look_at_all {
            self.look_at_all = ended + LOOK_AT_ALL.max((ended - began) * SHARE_OF_LOOKS);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_stays_behind_the_present_and_now_and_then_sees_everything() {
        let (began, postgres) = (Instant::now(), Utc::now());
        let slow = began + Duration::from_secs(1);
        let mut since = Since::new(began);
        assert_eq!(since.moment(began), DateTime::UNIX_EPOCH);
        since.learn(postgres, began, slow, false);
        assert_eq!(since.moment(slow), postgres - BEHIND);
        assert_eq!(since.moment(slow + Duration::from_secs(19)), postgres - BEHIND);
        assert_eq!(since.moment(slow + Duration::from_secs(20)), DateTime::UNIX_EPOCH);
    }

    #[test]
    fn what_a_full_look_left_is_not_skipped() {
        let (now, postgres) = (Instant::now(), Utc::now());
        let mut since = Since::new(now);
        since.learn(postgres, now, now, true);
        assert_eq!(since.moment(now), DateTime::UNIX_EPOCH);
    }
}
