//! The one question at a time that Postgres is asked: for more jobs, or which leases are ours. Two claims, or a claim and a
//! look at our own leases, would each make the other's answer stale. Pure.

use std::collections::HashSet;
use std::time::Duration;

use foreman_store::{Claimed, Holder, LeaseNo, OwnLease, WorkerId};
use tokio::time::Instant;

use crate::membership::liveness::Spell;
use crate::scheduling::plan::Order;

/// The wait after a question that Postgres did not answer, doubled for each until a claim is answered: a look at our own
/// leases proves too little, and what it hands back would be claimed again at once.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Claims {
    is_asking: bool,
    again_at: Instant,
    delay: Duration,
    /// Whether we may have leases that we do not know of.
    is_in_doubt: bool,
}

#[derive(Debug)]
pub(crate) enum Question {
    /// For jobs, as this holder and under this spell.
    Jobs { holder: Holder, spell: Spell, order: Order },
    /// Which leases this worker has, beside those that are known.
    OwnLeases { worker: WorkerId, known: HashSet<LeaseNo> },
}

/// What Postgres said.
#[derive(Debug)]
pub(crate) enum Reply {
    Claimed {
        order: Order,
        spell: Spell,
        jobs: Vec<Claimed>,
    },
    /// All that we hold by Postgres' account, beside what was known when it was asked.
    OwnLeases {
        known: HashSet<LeaseNo>,
        leases: Vec<OwnLease>,
    },
    Failed {
        may_have_claimed: bool,
    },
}

impl Claims {
    pub(super) fn new(now: Instant) -> Self {
        Self { is_asking: false, again_at: now, delay: FIRST_DELAY, is_in_doubt: false }
    }

    /// The next question is which leases are ours.
    pub(super) fn doubt(&mut self) {
        self.is_in_doubt = true;
    }

    pub(super) fn is_in_doubt(&self) -> bool {
        self.is_in_doubt
    }

    pub(super) fn is_asking(&self) -> bool {
        self.is_asking
    }

    pub(super) fn may_ask(&self, now: Instant) -> bool {
        !self.is_asking && now >= self.again_at
    }

    /// When Postgres may be asked again, if that is only a matter of time.
    pub(super) fn again_at(&self, now: Instant) -> Option<Instant> {
        Some(self.again_at).filter(|at| now < *at)
    }

    /// A question goes out.
    pub(super) fn ask(&mut self) {
        self.is_asking = true;
    }

    /// A claim was answered.
    pub(super) fn answered(&mut self) {
        self.is_asking = false;
        self.delay = FIRST_DELAY;
    }

    pub(super) fn own_leases_are_known(&mut self) {
        self.is_asking = false;
        self.is_in_doubt = false;
    }

    /// A question was not answered. What may have been claimed without our knowing stands among our own leases.
    pub(super) fn failed(&mut self, may_have_claimed: bool, now: Instant) {
        self.is_asking = false;
        self.is_in_doubt |= may_have_claimed;
        self.again_at = now + self.delay;
        self.delay = (self.delay * 2).min(LONGEST_DELAY);
    }
}
