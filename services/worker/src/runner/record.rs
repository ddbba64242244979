//! What Postgres is told of attempts: that they begin, and how they ended. Three tasks write, each taking all that has
//! gathered while its last write was under way, so that many jobs share a commit and a lone one does not wait. One of them
//! has the large completions, so that on a thin line no small one waits behind them.
//!
//! A batch that Postgres refuses is written row by row beside these tasks ([`Alone`]), so that a bad row holds up no other.

pub(super) mod beginning;
pub(super) mod leaving;

use foreman_runtime::Shutdown;
use foreman_store::{Lease, Phase, Store};
use tokio::sync::{mpsc, oneshot};

use super::signal::Signal;
use crate::alone::Alone;
use crate::membership::liveness::Spell;
use beginning::{Began, Beginning, Begins};
use leaving::{Exits, Leaving};

/// Rows of one statement: more than the slots of any host, and few enough.
const BATCH: usize = 256;

/// From this size on, in bytes, completions are written by a task of their own.
const LARGE: usize = 1 << 20;

/// The way to the tasks. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Recorder {
    begins: mpsc::UnboundedSender<Beginning>,
    exits: mpsc::UnboundedSender<Leaving>,
    large_exits: mpsc::UnboundedSender<Leaving>,
}

impl Recorder {
    /// The recorder, and the tasks that must run for it: for begins, for exits, and for exits with much to write. They end
    /// when every clone is gone and all is written.
    pub(crate) fn new(
        store: &Store,
        shutdown: &Shutdown,
        signals: &mpsc::UnboundedSender<Signal>,
    ) -> (Self, impl Future<Output = ()> + use<>, [impl Future<Output = ()> + use<>; 2]) {
        let (begins, to_begin) = mpsc::unbounded_channel();
        let (exits, to_exit) = mpsc::unbounded_channel();
        let (large_exits, to_exit_at_length) = mpsc::unbounded_channel();
        (
            Self { begins, exits, large_exits },
            Begins { store: store.on_own_connection(), alone: Alone::new(shutdown) }.record(to_begin),
            // Large ones are few: the pool will do for them.
            [(store.on_own_connection(), to_exit), (store.clone(), to_exit_at_length)].map(
                |(store, queue)| {
                    Exits { store, signals: signals.clone(), alone: Alone::new(shutdown) }.record(queue)
                },
            ),
        )
    }

    /// Records that a holder begins, and asks whether it may. Safe to drop: the lease is settled after it in any case.
    pub(crate) async fn begin(&self, lease: &Lease, phase: Phase, spell: &Spell) -> Began {
        let (answer, answered) = oneshot::channel();
        let lease = Lease { job_id: lease.job_id, no: lease.no };
        let beginning = Beginning { lease, phase, spell: spell.clone(), answer };
        // Without the task nothing is begun any more, which is what a fence means.
        if self.begins.send(beginning).is_err() {
            return Began::Fenced;
        }
        answered.await.unwrap_or(Began::Fenced)
    }

    /// Lets go of a lease. [`Signal::Settled`] tells when that is written.
    pub(crate) fn settle(&self, leaving: Leaving) {
        let queue = if leaving.exit.bytes() < LARGE { &self.exits } else { &self.large_exits };
        if let Err(lost) = queue.send(leaving) {
            // The task ends only when every recorder is gone; should it have died, the lease is rescued.
            tracing::error!(job.id = %lost.0.lease.job_id, "an outcome was not recorded");
        }
    }
}
