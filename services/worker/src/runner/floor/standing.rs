//! By what right jobs are claimed and begun: this worker holds the host, Postgres has heard of it lately, and it is not told
//! to stop.

use foreman_store::{Holder, WorkerId};
use tokio::sync::watch;

use crate::membership::liveness::{Liveness, Spell};

#[derive(Debug)]
pub(super) struct Standing {
    liveness: Liveness,
    holder: watch::Receiver<Option<Holder>>,
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
    pub(super) fn new(liveness: Liveness, holder: watch::Receiver<Option<Holder>>) -> Self {
        Self { liveness, holder, stop: None }
    }

    /// As whom jobs may be claimed and begun now, if at all.
    pub(super) fn right(&self) -> Option<(Holder, Spell)> {
        if self.stop.is_some() {
            return None;
        }
        let holder = self.holder.borrow().clone()?;
        let spell = self.liveness.spell()?;
        (spell.worker == holder.worker).then_some((holder, spell))
    }

    pub(super) fn holds_host(&self) -> bool {
        self.holder.borrow().is_some()
    }

    /// As whom we hold leases.
    pub(super) fn worker(&self) -> Option<WorkerId> {
        self.liveness.id()
    }

    /// Returns when the host has gone to somebody else.
    pub(super) async fn holder_changed(&mut self) {
        if self.holder.changed().await.is_err() {
            // Nobody is left to say so: the process is at its end.
            std::future::pending::<()>().await;
        }
    }

    pub(super) fn stop_softly(&mut self) {
        self.stop = Some(Stop::Soft);
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
