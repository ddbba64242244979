//! From where on a chore looks for rows whose time has come. While somebody holds an old snapshot (a backup, say), Postgres
//! keeps the entries of rows long gone, and each look from the first on would walk over all of them.
//!
//! It only hastens. A row whose time had passed before it appeared is found by the next look at everything.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use foreman_store::Swept;

use crate::look_at_all::LookAtAll;

/// How far we stay behind the present: what was to come this long ago has been seen.
const BEHIND: TimeDelta = TimeDelta::seconds(2);

/// Between two looks at everything, for chores that somebody waits for.
pub(super) const OFTEN: Duration = Duration::from_secs(5);

/// The same for chores that look but once a minute: most of their looks should be short ones.
pub(super) const SELDOM: Duration = Duration::from_secs(600);

#[derive(Debug)]
pub(super) struct Since {
    moment: DateTime<Utc>,
    look_at_all: LookAtAll,
}

impl Since {
    pub(super) fn new(now: Instant, look_at_all_every: Duration) -> Self {
        Self { moment: DateTime::UNIX_EPOCH, look_at_all: LookAtAll::new(now, look_at_all_every) }
    }

    /// What to look from, at `now`.
    pub(super) fn moment(&self, now: Instant) -> DateTime<Utc> {
        if self.look_at_all.is_due(now) { DateTime::UNIX_EPOCH } else { self.moment }
    }

    /// Learns from a look that began at `began`, when Postgres' time was `postgres`, and ended at `ended`. The next look
    /// goes on where this one stopped, or it would walk over what this one has just taken.
    pub(super) fn learn(&mut self, postgres: DateTime<Utc>, began: Instant, ended: Instant, swept: Swept) {
        let behind = postgres - BEHIND;
        self.moment = swept.stopped_at.map_or(behind, |stopped_at| stopped_at.min(behind));
        self.look_at_all.looked(began, ended);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Swept = Swept { rows: 3, stopped_at: None };

    fn full(stopped_at: DateTime<Utc>) -> Swept {
        Swept { rows: 1_000, stopped_at: Some(stopped_at) }
    }

    #[test]
    fn a_look_stays_behind_the_present_and_now_and_then_sees_everything() {
        let (now, postgres) = (Instant::now(), Utc::now());
        let mut since = Since::new(now, SELDOM);
        assert_eq!(since.moment(now), DateTime::UNIX_EPOCH);
        since.learn(postgres, now, now, ALL);
        assert_eq!(since.moment(now), postgres - BEHIND);
        assert_eq!(since.moment(now + SELDOM / 2), postgres - BEHIND);
        assert_eq!(since.moment(now + SELDOM), DateTime::UNIX_EPOCH);
    }

    #[test]
    fn a_full_look_is_gone_on_with_where_it_stopped_also_when_it_looked_at_everything() {
        let (now, postgres) = (Instant::now(), Utc::now());
        let mut since = Since::new(now, OFTEN);
        let (first, second) = (postgres - TimeDelta::hours(2), postgres - TimeDelta::hours(1));
        since.learn(postgres, now, now, full(first));
        assert_eq!(since.moment(now), first);
        since.learn(postgres, now, now, full(second));
        assert_eq!(since.moment(now), second);
        since.learn(postgres, now, now, ALL);
        assert_eq!(since.moment(now), postgres - BEHIND);
    }

    #[test]
    fn a_full_look_that_came_up_to_the_present_leaves_room_for_what_commits_late() {
        let (now, postgres) = (Instant::now(), Utc::now());
        let mut since = Since::new(now, OFTEN);
        since.learn(postgres, now, now, full(postgres));
        assert_eq!(since.moment(now), postgres - BEHIND);
    }
}
