//! From where on a chore looks for rows whose time has come. While somebody holds an old snapshot (a backup, say), Postgres
//! keeps the index entries of rows long gone, and a look from the first entry on would walk over all of them.
//!
//! This is for speed only. A row that appears when its time has already passed is found by the next look at everything.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use foreman_runtime::background::Round;
use foreman_store::{Clock, Swept};

use crate::look_at_all::LookAtAll;

/// How far a look stays behind the present. Whatever transaction wrote a row this long ago has committed.
const BEHIND: TimeDelta = TimeDelta::seconds(2);

/// Between two looks at everything, for chores that somebody waits for.
pub(super) const OFTEN: Duration = Duration::from_secs(5);

/// The same for chores that look only once a minute: most of their looks should be short ones.
pub(super) const SELDOM: Duration = Duration::from_secs(600);

#[derive(Debug)]
pub(super) struct Since {
    moment: DateTime<Utc>,
    look_at_all: LookAtAll,
}

/// One look of a chore.
#[derive(Debug)]
pub(super) struct Look {
    /// Rows whose time came earlier are left out.
    pub(super) since: DateTime<Utc>,
    began: Instant,
    /// Postgres' time when it began.
    postgres: DateTime<Utc>,
}

impl Since {
    pub(super) fn new(look_at_all_every: Duration) -> Self {
        Self::new_at(Instant::now(), look_at_all_every)
    }

    fn new_at(now: Instant, look_at_all_every: Duration) -> Self {
        Self { moment: DateTime::UNIX_EPOCH, look_at_all: LookAtAll::new(now, look_at_all_every) }
    }

    /// Begins a look.
    pub(super) fn look(&self, clock: &Clock) -> Look {
        self.look_at(Instant::now(), clock.now())
    }

    fn look_at(&self, began: Instant, postgres: DateTime<Utc>) -> Look {
        let since = if self.look_at_all.is_due(began) { DateTime::UNIX_EPOCH } else { self.moment };
        Look { since, began, postgres }
    }

    /// Learns from a look that ends now, and says whether there may be more to find. The next look goes on where this one
    /// stopped, or it would walk over the entries of the rows that this one took.
    pub(super) fn learn(&mut self, look: &Look, swept: Swept) -> Round {
        self.learn_at(Instant::now(), look, swept)
    }

    fn learn_at(&mut self, ended: Instant, look: &Look, swept: Swept) -> Round {
        let behind = look.postgres - BEHIND;
        self.moment = swept.stopped_at.map_or(behind, |stopped_at| stopped_at.min(behind));
        self.look_at_all.looked(look.began, ended);
        if swept.stopped_at.is_some() { Round::More } else { Round::Idle }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Swept = Swept { rows: 3, stopped_at: None };

    fn full(stopped_at: DateTime<Utc>) -> Swept {
        Swept { rows: 1_000, stopped_at: Some(stopped_at) }
    }

    fn learn(since: &mut Since, now: Instant, postgres: DateTime<Utc>, swept: Swept) -> Round {
        since.learn_at(now, &since.look_at(now, postgres), swept)
    }

    #[test]
    fn a_look_stays_behind_the_present_and_now_and_then_sees_everything() {
        let (now, postgres) = (Instant::now(), Utc::now());
        let mut since = Since::new_at(now, SELDOM);
        assert_eq!(since.look_at(now, postgres).since, DateTime::UNIX_EPOCH);
        assert_eq!(learn(&mut since, now, postgres, ALL), Round::Idle);
        assert_eq!(since.look_at(now, postgres).since, postgres - BEHIND);
        assert_eq!(since.look_at(now + SELDOM / 2, postgres).since, postgres - BEHIND);
        assert_eq!(since.look_at(now + SELDOM, postgres).since, DateTime::UNIX_EPOCH);
    }

    #[test]
    fn a_full_look_is_gone_on_with_where_it_stopped_also_when_it_looked_at_everything() {
        let (now, postgres) = (Instant::now(), Utc::now());
        let mut since = Since::new_at(now, OFTEN);
        let (first, second) = (postgres - TimeDelta::hours(2), postgres - TimeDelta::hours(1));
        assert_eq!(learn(&mut since, now, postgres, full(first)), Round::More);
        assert_eq!(since.look_at(now, postgres).since, first);
        learn(&mut since, now, postgres, full(second));
        assert_eq!(since.look_at(now, postgres).since, second);
        learn(&mut since, now, postgres, ALL);
        assert_eq!(since.look_at(now, postgres).since, postgres - BEHIND);
    }

    #[test]
    fn a_full_look_that_came_up_to_the_present_leaves_room_for_what_commits_late() {
        let (now, postgres) = (Instant::now(), Utc::now());
        let mut since = Since::new_at(now, OFTEN);
        learn(&mut since, now, postgres, full(postgres));
        assert_eq!(since.look_at(now, postgres).since, postgres - BEHIND);
    }
}
