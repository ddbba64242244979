//! Whether this worker may claim and begin jobs. It may while it holds the host, nobody has drained the host, its spell
//! goes on, and the process does not stop. Pure.

use foreman_store::{Holder, WorkerId};

use crate::membership::liveness::Spell;

#[derive(Debug, Default)]
pub(super) struct Authority {
    holder: Option<Holder>,
    spell: Option<Spell>,
    is_drained: bool,
    stop: Option<Stop>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// No job begins any more.
    Soft,
    /// The grace is nearly over, and no attempt may run any more.
    Hard,
}

impl Authority {
    /// Takes the host lease that this worker has now, and its present spell.
    pub(super) fn update(&mut self, holder: Option<Holder>, spell: Option<Spell>) {
        (self.holder, self.spell) = (holder, spell);
    }

    /// As whom this worker may claim and begin jobs now. `None` if it may not.
    pub(super) fn right(&self) -> Option<(&Holder, &Spell)> {
        self.right_to_host().filter(|_| !self.is_drained)
    }

    /// As whom this worker may act on the host now, drained or not. `None` if it may not.
    pub(super) fn right_to_host(&self) -> Option<(&Holder, &Spell)> {
        if self.stop.is_some() {
            return None;
        }
        let (holder, spell) = (self.holder.as_ref()?, self.spell.as_ref()?);
        let may = spell.worker == holder.worker && spell.goes_on();
        may.then_some((holder, spell))
    }

    /// An operator has drained the host, or lets it take jobs again.
    pub(super) fn drain(&mut self, is_drained: bool) {
        self.is_drained = is_drained;
    }

    pub(super) fn is_drained(&self) -> bool {
        self.is_drained
    }

    /// Whether the host is ours, and is there to run jobs.
    pub(super) fn serves_host(&self) -> bool {
        self.holder.is_some() && !self.is_drained
    }

    /// The id under which this worker has leases, while its spell goes on.
    pub(super) fn worker(&self) -> Option<WorkerId> {
        self.spell.as_ref().filter(|spell| spell.goes_on()).map(|spell| spell.worker)
    }

    pub(super) fn stop_softly(&mut self) {
        self.stop = self.stop.or(Some(Stop::Soft));
    }

    pub(super) fn stop_hard(&mut self) {
        self.stop = Some(Stop::Hard);
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stop.is_some()
    }

    pub(super) fn is_out_of_time(&self) -> bool {
        self.stop == Some(Stop::Hard)
    }
}
