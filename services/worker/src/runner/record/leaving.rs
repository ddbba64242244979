//! Writes how attempts ended. An outcome is written until Postgres has taken it or says that the lease is another's. It is
//! never dropped for want of an answer: the lease number alone decides, however late that is.

use std::time::Duration;

use foreman_runtime::{background_error, stalls};
use foreman_store::{Exit, Lease, Settled, Store, StoreError};
use metrics::counter;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::BATCH;
use crate::alone::Alone;
use crate::runner::fate::reason;
use crate::runner::metrics::TOKENS;
use crate::runner::signal::Signal;
use crate::stale::STALE_WRITES;
use crate::tries::Tries;

/// A batch takes no further completion past this, in bytes. On a line of 1 MiB/s it is written in two seconds.
const BATCH_BYTES: usize = 2 << 20;

/// So many outcomes in one batch were made under load. Then the next one gathers for a moment first: a statement costs
/// about as much as 20 outcomes do, and no slot waits for it.
const UNDER_LOAD: usize = 16;
const GATHER_FOR: Duration = Duration::from_millis(5);

/// A result of the largest kind has gone over a thin line by then.
const WRITE: Duration = Duration::from_secs(300);

/// A lease on its way out.
#[derive(Debug)]
pub(crate) struct Leaving {
    pub lease: Lease,
    pub exit: Exit,
    pub model_label: String,
}

#[derive(Clone)]
pub(super) struct Exits {
    pub(super) store: Store,
    pub(super) signals: mpsc::UnboundedSender<Signal>,
    pub(super) alone: Alone,
}

impl Exits {
    pub(super) async fn record(self, mut queue: mpsc::UnboundedReceiver<Leaving>) {
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
            if let Err(refused) = self.write(&labels, &exits, &mut Tries::default()).await {
                background_error!("settle", refused, jobs = exits.len(), "outcomes were refused");
                for (label, exit) in labels.into_iter().zip(exits) {
                    self.alone.begin("settle", self.clone().settle_alone(label, exit)).await;
                }
            }
            if under_load && gathered.is_empty() {
                sleep(GATHER_FOR).await;
            }
        }
    }

    /// Writes one outcome, or in its stead that it cannot be written.
    async fn settle_alone(self, label: String, exit: (Lease, Exit)) {
        let (job, number) = (exit.0.job_id, exit.0.no);
        let why = reason("outcome_refused", "its outcome could not be stored; the worker's log says why");
        let (label, exit) = ([label], [exit]);
        let stand_in = [(Lease { job_id: job, no: number }, Exit::Failed(why))];
        let mut tries = Tries::of_a_row_alone();
        while let Err(refused) = self.write(&label, &exit, &mut tries).await {
            background_error!("settle", refused, job.id = %job, "an outcome was refused; the job is to fail in its stead");
            let Err(refused) = self.write(&label, &stand_in, &mut Tries::default()).await else { return };
            // The cause is not this outcome but concerns every row, a right that was revoked say: the outcome is kept until
            // that is mended.
            if let Err(refused) = tries.failed("settle", refused).await {
                background_error!("settle", refused, job.id = %job, "not even that could be stored");
                // Forgotten here, the lease is found again among our own and handed back.
                _ = self.signals.send(Signal::Settled(number));
                return;
            }
        }
    }

    /// Writes until Postgres takes or refuses it.
    async fn write(
        &self,
        labels: &[String],
        exits: &[(Lease, Exit)],
        tries: &mut Tries,
    ) -> Result<(), StoreError> {
        loop {
            match stalls::round("settle", WRITE, tries.store(&self.store).settle(exits)).await {
                Ok(settled) => {
                    self.settled(labels, exits, &settled);
                    return Ok(());
                }
                Err(error) => tries.failed("settle", error).await?,
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
