//! Writes how attempts ended. It repeats each outcome until Postgres has stored it or says that another worker has
//! the lease. It must never drop an outcome because Postgres does not answer: however late it arrives, the lease
//! number alone decides whether it counts.

use std::collections::HashMap;
use std::time::Duration;

use foreman_runtime::{background_error, stalls};
use foreman_store::{Exit, Lease, LeaseNo, Settled, Store, StoreError, Used};
use metrics::counter;
use tokio::sync::mpsc;

use super::MAX_BATCH_ROWS;
use crate::alone::Alone;
use crate::gather::Gather;
use crate::runner::fate::reason;
use crate::runner::metrics::TOKENS;
use crate::runner::signal::Signal;
use crate::stale::STALE_WRITES;
use crate::tries::Tries;

/// The most bytes of completions in one batch. A line of 1 MiB/s carries such a batch in two seconds.
const MAX_BATCH_BYTES: usize = 2 << 20;

/// One statement costs about as much as 20 outcomes, and no slot waits for it.
const GATHER: Gather = Gather::new(16, Duration::from_millis(5));

/// A write that takes longer than this has stalled. The largest result needs less, even on a slow line.
const STALLED_AFTER: Duration = Duration::from_secs(300);

/// A lease that is to end, and how its job leaves it.
#[derive(Debug)]
pub(crate) struct Leaving {
    pub lease: Lease,
    pub exit: Exit,
    pub used: Used,
    pub model_label: String,
}

/// What is written together.
#[derive(Default)]
struct Batch {
    exits: Vec<(Lease, Exit)>,
    used: HashMap<LeaseNo, Used>,
    /// Of each exit.
    labels: Vec<String>,
}

impl FromIterator<Leaving> for Batch {
    fn from_iter<I: IntoIterator<Item = Leaving>>(leavings: I) -> Self {
        let mut batch = Self::default();
        for Leaving { lease, exit, used, model_label } in leavings {
            batch.used.insert(lease.no, used);
            batch.exits.push((lease, exit));
            batch.labels.push(model_label);
        }
        batch
    }
}

#[derive(Clone)]
pub(super) struct Exits {
    pub(super) store: Store,
    pub(super) signals: mpsc::UnboundedSender<Signal>,
    pub(super) alone: Alone,
}

impl Exits {
    pub(super) async fn record(self, mut queue: mpsc::UnboundedReceiver<Leaving>) {
        let (mut gathered, mut gather) = (Vec::new(), GATHER);
        while !gathered.is_empty() || queue.recv_many(&mut gathered, MAX_BATCH_ROWS).await > 0 {
            let batch: Batch = gathered.drain(..batch_len(&gathered)).collect();
            let outcomes = batch.exits.len();
            if let Err(refused) = self.write(&batch, &mut Tries::default()).await {
                background_error!("settle", refused, jobs = outcomes, "outcomes were refused");
                let Batch { exits, used, labels } = batch;
                for ((lease, exit), model_label) in exits.into_iter().zip(labels) {
                    let used = used.get(&lease.no).copied().unwrap_or_default();
                    let leaving = Leaving { lease, exit, used, model_label };
                    self.alone.begin("settle", self.clone().settle_alone(leaving)).await;
                }
            }
            gather.after(outcomes).await;
        }
    }

    /// Writes one outcome. If Postgres refuses it, writes instead that the job failed with `outcome_refused`.
    async fn settle_alone(self, leaving: Leaving) {
        let (job, number) = (leaving.lease.job_id, leaving.lease.no);
        let why = reason("outcome_refused", "its outcome could not be stored; the worker's log says why");
        let failure = Leaving {
            lease: Lease { job_id: job, no: number },
            exit: Exit::Failed(why),
            used: leaving.used,
            model_label: leaving.model_label.clone(),
        };
        let [outcome, failure] = [leaving, failure].map(|one| Batch::from_iter([one]));
        let mut tries = Tries::of_a_row_alone();
        while let Err(refused) = self.write(&outcome, &mut tries).await {
            background_error!("settle", refused, job.id = %job, "an outcome was refused; the job fails instead");
            let Err(refused) = self.write(&failure, &mut Tries::default()).await else { return };
            // Postgres refuses the failure too, so the cause concerns every row (a revoked right, say). Keep the
            // outcome, and try it again until somebody has mended the cause.
            if let Err(refused) = tries.failed("settle", refused).await {
                background_error!("settle", refused, job.id = %job, "the failure was refused as well; the job is handed back");
                // The decider then knows nothing of this lease. Its next look at our own leases finds it and hands it
                // back.
                _ = self.signals.send(Signal::Settled(number));
                return;
            }
        }
    }

    /// Tries until Postgres stores or refuses the exits.
    async fn write(&self, batch: &Batch, tries: &mut Tries) -> Result<(), StoreError> {
        loop {
            let store = tries.store(&self.store);
            let settle = store.settle(&batch.exits, &batch.used);
            match stalls::round("settle", STALLED_AFTER, settle).await {
                Ok(settled) => {
                    self.settled(batch, &settled);
                    return Ok(());
                }
                Err(error) => tries.failed("settle", error).await?,
            }
        }
    }

    fn settled(&self, batch: &Batch, settled: &[Settled]) {
        for ((label, (lease, exit)), settled) in batch.labels.iter().zip(&batch.exits).zip(settled) {
            match settled {
                // `Already` means that an earlier try was stored, but the answer to its COMMIT was lost.
                Settled::Into(_) | Settled::Already => count_tokens(label, exit),
                Settled::Stale => {
                    counter!(STALE_WRITES.name).increment(1);
                    tracing::warn!(job.id = %lease.job_id, "an outcome came too late: its lease is not there any more");
                }
            }
            // Sending cannot fail: the floor ends only after it has heard of every lease.
            _ = self.signals.send(Signal::Settled(lease.no));
        }
    }
}

/// How many of these go into the next batch. A completion larger than a batch is written by itself.
fn batch_len(gathered: &[Leaving]) -> usize {
    let mut bytes = 0;
    let fitting = gathered.iter().take_while(|leaving| {
        bytes += leaving.exit.bytes();
        bytes <= MAX_BATCH_BYTES
    });
    fitting.count().max(1)
}

/// Counts the tokens of an outcome that Postgres has stored.
fn count_tokens(label: &str, exit: &Exit) {
    let Exit::Done(done) = exit else { return };
    for (kind, tokens) in [("prompt", done.prompt_tokens), ("completion", done.completion_tokens)] {
        let tokens = tokens.and_then(|tokens| u64::try_from(tokens).ok()).unwrap_or(0);
        counter!(TOKENS.name, "model" => label.to_owned(), "kind" => kind).increment(tokens);
    }
}

#[cfg(test)]
mod tests {
    use foreman_store::{JobId, LeaseNo};

    use super::*;
    use crate::runner::record::tests::done;

    #[test]
    fn a_batch_ends_before_the_completion_that_would_make_it_too_large() {
        let leaving = |exit| Leaving {
            lease: Lease { job_id: JobId::generate(), no: LeaseNo(1) },
            exit,
            used: Used::default(),
            model_label: String::new(),
        };
        let batch =
            |sizes: &[usize]| batch_len(&sizes.iter().map(|bytes| leaving(done(*bytes))).collect::<Vec<_>>());
        assert_eq!(batch(&[10; 100]), 100);
        assert_eq!(batch(&[MAX_BATCH_BYTES - 1, 1, 0, 1]), 3);
        assert_eq!(batch(&[10, MAX_BATCH_BYTES, 10]), 1);
        assert_eq!(batch(&[MAX_BATCH_BYTES + 1, 10]), 1, "it is written by itself");
    }
}
