//! The dispatcher has two loops, each with a connection to Postgres of its own. So the rounds of one never stand before those
//! of the other: receivers that hang, fail or drip cannot delay the others by their number.

use std::ops::{Index, IndexMut};

use foreman_store::LaneHealth;

/// One of the two loops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// For the proven lanes, and for what was just made, in any lane.
    Prompt,
    /// For the lanes that are not proven. It also searches through all lanes.
    Patient,
}

impl Pace {
    /// Whose the lanes of this health are.
    pub(super) fn of(health: LaneHealth) -> Self {
        match health {
            LaneHealth::Proven => Self::Prompt,
            LaneHealth::NeverTried | LaneHealth::Failing => Self::Patient,
        }
    }

    pub(super) fn other(self) -> Self {
        match self {
            Self::Prompt => Self::Patient,
            Self::Patient => Self::Prompt,
        }
    }
}

/// What each of the two has of its own.
#[derive(Debug, Default)]
pub(super) struct PerPace<T> {
    prompt: T,
    patient: T,
}

impl<T> Index<Pace> for PerPace<T> {
    type Output = T;

    fn index(&self, pace: Pace) -> &T {
        match pace {
            Pace::Prompt => &self.prompt,
            Pace::Patient => &self.patient,
        }
    }
}

impl<T> IndexMut<Pace> for PerPace<T> {
    fn index_mut(&mut self, pace: Pace) -> &mut T {
        match pace {
            Pace::Prompt => &mut self.prompt,
            Pace::Patient => &mut self.patient,
        }
    }
}
