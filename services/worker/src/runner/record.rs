//! What Postgres is told of attempts: that they begin, and how they ended. Three tasks write, each taking all that has
//! gathered while its last write was under way, so that many jobs share a commit and a lone one does not wait. One of them
//! has the large completions, so that on a thin line no small one waits behind them.
//!
//! An outcome is written until Postgres has taken it or says that the lease is another's. It is never dropped for want
//! of an answer: the lease number alone decides, however late that is.

use std::time::Duration;

use foreman_runtime::{background_error, stalls};
use foreman_store::{Begin, Exit, Lease, Phase, Settled, Store, StoreError};
use metrics::counter;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

use super::fate::reason;
use super::metrics::TOKENS;
use super::signal::Signal;
use crate::liveness::Spell;
use crate::stale::STALE_WRITES;
use crate::tries::Tries;

/// More than the slots of any host, and few enough for one statement.
const BATCH: usize = 256;

/// A batch takes no further completion past this, in bytes. On a line of 1 MiB/s it is written in two seconds.
const BATCH_BYTES: usize = 2 << 20;

/// From this size on, in bytes, completions are written by a task of their own.
const LARGE: usize = 1 << 20;

/// So many outcomes in one batch were made under load. Then the next one gathers for a moment first: a statement costs
/// about as much as 20 outcomes do, and no slot waits for it.
const UNDER_LOAD: usize = 16;
const GATHER_FOR: Duration = Duration::from_millis(5);

/// A result of the largest kind has gone over a thin line by then.
const WRITE: Duration = Duration::from_secs(300);

/// The way to the tasks. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Recorder {
    begins: mpsc::UnboundedSender<Beginning>,
    exits: mpsc::UnboundedSender<Leaving>,
    large_exits: mpsc::UnboundedSender<Leaving>,
}

/// What came of the wish to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Began {
    Answered(Begin),
    /// The right to begin anything ended before Postgres answered.
    Fenced,
}

/// A lease on its way out.
#[derive(Debug)]
pub(crate) struct Leaving {
    pub lease: Lease,
    pub exit: Exit,
    pub model_label: String,
}

#[derive(Debug)]
struct Beginning {
    lease: Lease,
    phase: Phase,
    spell: Spell,
    answer: oneshot::Sender<Began>,
}

impl Beginning {
    fn answer(self, answer: Begin) {
        // An attempt that was stopped meanwhile asks no more, and its lease may be settled already.
        if self.answer.send(Began::Answered(answer)).is_ok() && answer == Begin::Stale {
            counter!(STALE_WRITES.name).increment(1);
        }
    }
}

impl Recorder {
    /// The recorder, and the tasks that must run for it: for begins, for exits, and for exits with much to write. They end
    /// when every clone is gone and all is written.
    pub(crate) fn new(
        store: &Store,
        signals: &mpsc::UnboundedSender<Signal>,
    ) -> (Self, impl Future<Output = ()> + use<>, [impl Future<Output = ()> + use<>; 2]) {
        let (begins, to_begin) = mpsc::unbounded_channel();
        let (exits, to_exit) = mpsc::unbounded_channel();
        let (large_exits, to_exit_at_length) = mpsc::unbounded_channel();
        let scribe = |store: Store| Scribe { store, signals: signals.clone() };
        (
            Self { begins, exits, large_exits },
            scribe(store.on_own_connection()).record_begins(to_begin),
            // Large ones are few: the pool will do for them.
            [(store.on_own_connection(), to_exit), (store.clone(), to_exit_at_length)]
                .map(|(store, queue)| scribe(store).record_exits(queue)),
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

struct Scribe {
    store: Store,
    signals: mpsc::UnboundedSender<Signal>,
}

impl Scribe {
    async fn record_begins(self, mut queue: mpsc::UnboundedReceiver<Beginning>) {
        let mut batch = Vec::new();
        while queue.recv_many(&mut batch, BATCH).await > 0 {
            self.begin(&mut batch).await;
            // Something was refused. Whichever of them it is must not hold the others back.
            for beginning in std::mem::take(&mut batch) {
                self.begin(&mut vec![beginning]).await;
            }
        }
    }

    /// Writes until all are answered, or one is refused. Those who are left without an answer may not begin.
    async fn begin(&self, batch: &mut Vec<Beginning>) {
        let mut tries = Tries::default();
        loop {
            // Whoever waits is told as soon as the right to begin has ended, however long Postgres is away.
            for fenced in batch.extract_if(.., |beginning| !beginning.spell.goes_on()) {
                _ = fenced.answer.send(Began::Fenced);
            }
            if batch.is_empty() {
                return;
            }
            let asked: Vec<_> = batch.iter().map(|one| (&one.lease, one.phase)).collect();
            match stalls::round("begin", stalls::USUAL, self.store.begin(&asked)).await {
                Ok(answers) => {
                    batch.drain(..).zip(answers).for_each(|(beginning, answer)| beginning.answer(answer));
                    return;
                }
                Err(refused @ StoreError::BadData(_)) => {
                    return background_error!("begin", refused);
                }
                Err(error) => tries.failed("begin", error).await,
            }
        }
    }

    async fn record_exits(self, mut queue: mpsc::UnboundedReceiver<Leaving>) {
        let mut gathered = Vec::new();
        while !gathered.is_empty() || queue.recv_many(&mut gathered, BATCH).await > 0 {
            let mut bytes = 0;
            let fitting = gathered.iter().take_while(|leaving| {
                bytes += leaving.exit.bytes();
                bytes <= BATCH_BYTES
            });
            // A completion that is larger than a batch goes alone.
            let fitting = fitting.count().max(1);
            let (labels, exits): (Vec<_>, Vec<_>) =
                gathered.drain(..fitting).map(|one| (one.model_label, (one.lease, one.exit))).unzip();
            let under_load = exits.len() >= UNDER_LOAD;
            match self.write(&exits).await {
                Ok(settled) => self.settled(&labels, &exits, &settled),
                // Whichever of them it is must not hold the others back.
                Err(_refused) => {
                    for (label, exit) in labels.iter().zip(exits) {
                        self.settle_alone(label, exit).await;
                    }
                }
            }
            if under_load && gathered.is_empty() {
                sleep(GATHER_FOR).await;
            }
        }
    }

    /// Writes one outcome, or in its stead that it cannot be written.
    async fn settle_alone(&self, label: &str, exit: (Lease, Exit)) {
        let label = [label.to_owned()];
        let exits = [exit];
        let refused = match self.write(&exits).await {
            Ok(settled) => return self.settled(&label, &exits, &settled),
            Err(refused) => refused,
        };
        let [(lease, _unwritable)] = exits;
        let (job, number) = (lease.job_id, lease.no);
        background_error!("settle", refused, job.id = %job, "an outcome was refused; the job fails in its stead");
        let why = reason("outcome_refused", "its outcome could not be stored; the worker's log says why");
        let exits = [(lease, Exit::Failed(why))];
        match self.write(&exits).await {
            Ok(settled) => self.settled(&label, &exits, &settled),
            Err(refused) => {
                background_error!("settle", refused, job.id = %job, "not even that could be stored");
                // Forgotten here, the lease is found again among our own and handed back.
                _ = self.signals.send(Signal::Settled(number));
            }
        }
    }

    /// Writes until Postgres has answered. The only error left is a value that it refuses.
    async fn write(&self, exits: &[(Lease, Exit)]) -> Result<Vec<Settled>, StoreError> {
        let mut tries = Tries::default();
        loop {
            match stalls::round("settle", WRITE, tries.store(&self.store).settle(exits)).await {
                Err(refused @ StoreError::BadData(_)) => return Err(refused),
                Err(error) => tries.failed("settle", error).await,
                Ok(settled) => return Ok(settled),
            }
        }
    }

    fn settled(&self, labels: &[String], exits: &[(Lease, Exit)], settled: &[Settled]) {
        for ((label, (lease, exit)), settled) in labels.iter().zip(exits).zip(settled) {
            match settled {
                // A success is kept whatever else was asked for, also where the answer to its COMMIT was lost.
                Settled::Into(_) | Settled::Already => count_tokens(label, exit),
                Settled::Stale => {
                    counter!(STALE_WRITES.name).increment(1);
                    tracing::warn!(job.id = %lease.job_id, "an outcome came too late: the job is another's");
                }
            }
            // The floor goes only when it has heard of every lease.
            _ = self.signals.send(Signal::Settled(lease.no));
        }
    }
}

/// Tokens count only where their answer was kept.
fn count_tokens(label: &str, exit: &Exit) {
    let Exit::Done(done) = exit else { return };
    for (kind, tokens) in [("prompt", done.prompt_tokens), ("completion", done.completion_tokens)] {
        let tokens = tokens.and_then(|tokens| u64::try_from(tokens).ok()).unwrap_or(0);
        counter!(TOKENS.name, "model" => label.to_owned(), "kind" => kind).increment(tokens);
    }
}
