//! By what right jobs are claimed and begun: this worker holds the host, Postgres has heard of it lately, and it is not told
//! to stop. Pure.

use foreman_store::{Holder, WorkerId};

use crate::membership::liveness::Spell;

#[derive(Debug, Default)]
pub(super) struct Standing {
    holder: Option<Holder>,
    spell: Option<Spell>,
    stop: Option<Stop>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// Nothing more is begun.
    Soft,
    /// The grace is nearly over.
    Hard,
}

impl Standing {
    /// The host lease that this process has now, and the spell that goes on.
    pub(super) fn learn(&mut self, holder: Option<Holder>, spell: Option<Spell>) {
        (self.holder, self.spell) = (holder, spell);
    }

    /// As whom jobs may be claimed and begun now, if at all.
    pub(super) fn right(&self) -> Option<(Holder, Spell)> {
        if self.stop.is_some() {
            return None;
        }
        let (holder, spell) = (self.holder.as_ref()?, self.spell.as_ref()?);
        let may = spell.worker == holder.worker && spell.goes_on();
        may.then(|| (holder.clone(), spell.clone()))
    }

    pub(super) fn holds_host(&self) -> bool {
        self.holder.is_some()
    }

    /// As whom we hold leases.
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
