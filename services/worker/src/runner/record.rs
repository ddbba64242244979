//! Records in Postgres that attempts begin and how they ended. Three tasks write. Each writes one batch at a time:
//! everything that arrived during its last write. So many jobs share a commit, and a single job does not wait. Large
//! completions have a task of their own, so that small ones do not wait behind them on a slow line.
//!
//! When Postgres refuses a batch, each of its rows is written alone beside these tasks ([`Alone`]), so that one bad
//! row does not hold up the others.

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

/// The most rows in one statement. A usual host has fewer slots than this, and one statement can still write so many
/// quickly.
const MAX_BATCH_ROWS: usize = 256;

/// Completions of this many bytes or more go to the task for large ones.
const LARGE: usize = 1 << 20;

/// Hands begins and exits to the writing tasks. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Recorder {
    begins: mpsc::UnboundedSender<Beginning>,
    exits: mpsc::UnboundedSender<Leaving>,
    large_exits: mpsc::UnboundedSender<Leaving>,
}

impl Recorder {
    /// Returns the recorder, and the tasks that must run for it: one for begins, one for exits, and one for large
    /// exits. They end when every clone of the recorder is gone and everything is written.
    pub(crate) fn new(
        store: &Store,
        shutdown: &Shutdown,
        signals: &mpsc::UnboundedSender<Signal>,
    ) -> (Self, impl Future<Output = ()> + use<>, [impl Future<Output = ()> + use<>; 2]) {
        let (begins, to_begin) = mpsc::unbounded_channel();
        let (exits, to_exit) = mpsc::unbounded_channel();
        let (large_exits, to_exit_large) = mpsc::unbounded_channel();
        (
            Self { begins, exits, large_exits },
            Begins { store: store.on_own_connection(), alone: Alone::new(shutdown) }.record(to_begin),
            // Large exits are few, so their task takes connections from the pool.
            [(store.on_own_connection(), to_exit), (store.clone(), to_exit_large)].map(|(store, queue)| {
                Exits { store, signals: signals.clone(), alone: Alone::new(shutdown) }.record(queue)
            }),
        )
    }

    /// Records that the job under this lease begins, and returns whether it may. The future may be dropped at any
    /// time, because the lease is settled later in any case.
    pub(crate) async fn begin(&self, lease: &Lease, phase: Phase, spell: &Spell) -> Began {
        let (answer, answered) = oneshot::channel();
        let lease = Lease { job_id: lease.job_id, no: lease.no };
        let beginning = Beginning { lease, phase, spell: spell.clone(), answer };
        // Without its task no job can begin any more, exactly as after a fence.
        if self.begins.send(beginning).is_err() {
            return Began::Fenced;
        }
        answered.await.unwrap_or(Began::Fenced)
    }

    /// Has the exit written, which ends the lease. [`Signal::Settled`] tells the floor when Postgres has it.
    pub(crate) fn settle(&self, leaving: Leaving) {
        let queue = if leaving.exit.bytes() < LARGE { &self.exits } else { &self.large_exits };
        if let Err(lost) = queue.send(leaving) {
            // The task ends only after every recorder. If it died all the same, a janitor rescues the lease.
            tracing::error!(job.id = %lost.0.lease.job_id, "an outcome was not recorded");
        }
    }
}

#[cfg(test)]
mod tests {
    use foreman_store::{Begin, Completion, Exit, JobId, LeaseNo, Used, WorkerId};
    use tokio::time::Instant;

    use super::*;

    /// A success whose completion has this many bytes.
    pub(super) fn done(bytes: usize) -> Exit {
        Exit::Done(Completion {
            completion: vec![b'x'; bytes],
            content_type: "application/json".to_owned(),
            prompt_tokens: None,
            completion_tokens: None,
        })
    }

    fn lease(number: i64) -> Lease {
        Lease { job_id: JobId::generate(), no: LeaseNo(number) }
    }

    /// A recorder, and the queues of its tasks: begins, exits and large exits.
    fn recorder() -> (Recorder, mpsc::UnboundedReceiver<Beginning>, [mpsc::UnboundedReceiver<Leaving>; 2]) {
        let (begins, to_begin) = mpsc::unbounded_channel();
        let (exits, to_exit) = mpsc::unbounded_channel();
        let (large_exits, large_to_exit) = mpsc::unbounded_channel();
        (Recorder { begins, exits, large_exits }, to_begin, [to_exit, large_to_exit])
    }

    #[test]
    fn large_completions_do_not_wait_in_the_queue_of_small_ones() {
        let (recorder, _begins, queues) = recorder();
        for (number, exit) in [(1, done(LARGE)), (2, done(LARGE - 1)), (3, Exit::Cancelled)] {
            let (used, model_label) = (Used::default(), String::new());
            recorder.settle(Leaving { lease: lease(number), exit, used, model_label });
        }
        let [small, large] = queues.map(|mut queue| {
            std::iter::from_fn(|| queue.try_recv().ok()).map(|leaving| leaving.lease.no.0).collect::<Vec<_>>()
        });
        assert_eq!((small, large), (vec![2, 3], vec![1]));
    }

    #[tokio::test]
    async fn a_job_begins_only_if_the_task_for_begins_has_answered() {
        let (recorder, mut begins, _exits) = recorder();
        let (spell, _extend) = Spell::begin(WorkerId::generate(), Instant::now());
        let lease = lease(1);
        let answers = async move {
            begins.recv().await.unwrap().answer.send(Began::Answered(Begin::Go)).unwrap();
            drop(begins.recv().await.unwrap());
            drop(begins);
        };
        let asks = async {
            let mut began = Vec::new();
            for _ in 0..3 {
                began.push(recorder.begin(&lease, Phase::Working, &spell).await);
            }
            began
        };
        let (began, ()) = tokio::join!(asks, answers);
        let go = Began::Answered(Begin::Go);
        assert_eq!(
            began,
            [go, Began::Fenced, Began::Fenced],
            "answered, dropped unanswered, and without the task"
        );
    }
}
