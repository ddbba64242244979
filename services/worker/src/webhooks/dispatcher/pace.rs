//! The dispatcher has two loops, each with a connection to Postgres of its own. So the rounds of one never stand before those
//! of the other: receivers that hang, fail or drip cannot delay the others by their number.

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
