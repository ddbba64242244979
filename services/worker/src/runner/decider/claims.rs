//! When the decider may ask Postgres, and what. There are three questions: one claims more jobs, one asks
//! which leases are ours, and one says to the other hosts what is loaded next. There must never be two questions at the
//! same time, because each would make the answer to the other stale. Pure.

use std::collections::HashSet;
use std::time::Duration;

use foreman_store::{Claimed, Holder, LeaseNo, OwnLease, WorkerId};
use tokio::time::Instant;

use crate::membership::liveness::Spell;
use crate::scheduling::neighbours::Word;
use crate::scheduling::plan::Order;

/// The wait after a question that failed. It doubles with each failure, until Postgres answers a claim. An answered
/// look at our own leases does not reset it: claims may still fail, and each lost claim would be handed back and
/// claimed again at once.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Claims {
    is_asking: bool,
    /// No question before this time.
    again_at: Instant,
    delay: Duration,
    /// Whether Postgres may have leases of ours that the ledger does not know.
    is_in_doubt: bool,
}

#[derive(Debug)]
pub(crate) enum Question {
    /// Claims jobs as this holder. The jobs may begin only under this spell.
    Jobs { holder: Holder, spell: Spell, order: Order },
    /// Says to the other hosts that this host loads a model.
    Say { host: String, word: Word },
    /// Asks which leases this worker has in Postgres. `known` are those that the ledger knows when it asks.
    OwnLeases { worker: WorkerId, known: HashSet<LeaseNo> },
}

/// Postgres' answer to a question.
#[derive(Debug)]
pub(crate) enum Reply {
    Claimed {
        order: Order,
        spell: Spell,
        jobs: Vec<Claimed>,
    },
    /// Postgres has the word under this number, or has refused it.
    Said {
        host: String,
        word: Word,
        number: Option<i64>,
    },
    /// All leases of this worker in Postgres. `known` is what the question said.
    OwnLeases {
        known: HashSet<LeaseNo>,
        leases: Vec<OwnLease>,
    },
    Failed {
        /// The question was a claim, and Postgres may have committed it.
        may_have_claimed: bool,
    },
}

impl Claims {
    pub(super) fn new(now: Instant) -> Self {
        Self { is_asking: false, again_at: now, delay: FIRST_DELAY, is_in_doubt: false }
    }

    /// Makes the next question the one about our own leases.
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

    /// When the wait after a failed question ends, if one is on.
    pub(super) fn again_at(&self, now: Instant) -> Option<Instant> {
        Some(self.again_at).filter(|at| now < *at)
    }

    /// A question is asked.
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

    /// A question failed. Jobs that it may have claimed are found among our own leases by the next question.
    pub(super) fn failed(&mut self, may_have_claimed: bool, now: Instant) {
        self.is_asking = false;
        self.is_in_doubt |= may_have_claimed;
        self.again_at = now + self.delay;
        self.delay = (self.delay * 2).min(LONGEST_DELAY);
    }
}
