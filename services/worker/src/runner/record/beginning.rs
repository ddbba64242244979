//! Records that jobs begin, and tells each waiting attempt whether its job may begin. It must never let a job begin
//! after the job's spell has ended.

use std::mem::take;

use foreman_runtime::{background_error, stalls};
use foreman_store::{Begin, Lease, Phase, Store};
use metrics::counter;
use tokio::sync::{mpsc, oneshot};

use super::MAX_BATCH_ROWS;
use crate::alone::Alone;
use crate::membership::liveness::Spell;
use crate::stale::STALE_WRITES;
use crate::tries::Tries;

/// The answer to an attempt that asked whether its job may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Began {
    Answered(Begin),
    /// The spell ended before Postgres answered, or Postgres refuses to record the begin.
    Fenced,
}

#[derive(Debug)]
pub(super) struct Beginning {
    pub(super) lease: Lease,
    pub(super) phase: Phase,
    pub(super) spell: Spell,
    pub(super) answer: oneshot::Sender<Began>,
}

impl Beginning {
    fn answer(self, answer: Begin) {
        // Sending fails if the attempt was stopped meanwhile. Its lease may be settled already, so being stale is
        // normal then.
        if self.answer.send(Began::Answered(answer)).is_ok() && answer == Begin::Stale {
            counter!(STALE_WRITES.name).increment(1);
        }
    }
}

#[derive(Clone)]
pub(super) struct Begins {
    pub(super) store: Store,
    pub(super) alone: Alone,
}

impl Begins {
    pub(super) async fn record(self, mut queue: mpsc::UnboundedReceiver<Beginning>) {
        let mut batch = Vec::new();
        while queue.recv_many(&mut batch, MAX_BATCH_ROWS).await > 0 {
            for refused in self.begin(take(&mut batch), Tries::default()).await {
                self.alone.begin("begin", self.clone().begin_alone(refused)).await;
            }
        }
    }

    async fn begin_alone(self, beginning: Beginning) {
        for refused in self.begin(vec![beginning], Tries::of_a_row_alone()).await {
            // The attempt ends as if its spell had ended, and its job is handed back.
            _ = refused.answer.send(Began::Fenced);
        }
    }

    /// Tries until Postgres has answered all of them, or returns those that it refuses.
    async fn begin(&self, mut batch: Vec<Beginning>, mut tries: Tries) -> Vec<Beginning> {
        loop {
            // Postgres may be away for long. An attempt hears of the end of its spell between two tries, and not
            // after them.
            for fenced in batch.extract_if(.., |beginning| !beginning.spell.goes_on()) {
                _ = fenced.answer.send(Began::Fenced);
            }
            if batch.is_empty() {
                return batch;
            }
            let asked: Vec<_> = batch.iter().map(|one| (&one.lease, one.phase)).collect();
            let error = match stalls::round("begin", stalls::USUAL, self.store.begin(&asked)).await {
                Ok(answers) => {
                    batch.drain(..).zip(answers).for_each(|(beginning, answer)| beginning.answer(answer));
                    return batch;
                }
                Err(error) => error,
            };
            if let Err(refused) = tries.failed("begin", error).await {
                background_error!("begin", refused, jobs = batch.len(), "the begin of jobs was refused");
                return batch;
            }
        }
    }
}
