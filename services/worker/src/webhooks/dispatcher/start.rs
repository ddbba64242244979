//! From a claim to its attempts. Secrets and small artifacts are read for many deliveries at once, and each attempt begins
//! as soon as it can.

use std::sync::Arc;
use std::time::{Duration, Instant};

use foreman_store::{Delivery, PIECE, Store, StoreError};
use tokio::sync::mpsc;
use tracing::Instrument as _;

use super::TASK;
use super::attempt::{Attempted, Context, release};
use super::choice::Choice;
use super::heavy::Heavy;
use super::pool::{Part, Pool};
use super::receivers::{Receivers, Withheld};
use crate::worker::Worker;

/// How long deliveries wait whose artifacts Postgres did not give out.
const UNREAD_FOR: Duration = Duration::from_secs(1);

/// Begins attempts, and gives each what it needs.
pub(super) struct Starter {
    worker: Arc<Worker>,
    store: Store,
    context: Arc<Context>,
    receivers: Receivers,
    seats: Pool,
    heavy: Heavy,
    over: mpsc::Sender<Attempted>,
}

impl Starter {
    pub(super) fn new(
        worker: Arc<Worker>,
        store: Store,
        context: Arc<Context>,
        seats: Pool,
        heavy: Heavy,
        over: mpsc::Sender<Attempted>,
    ) -> Self {
        let receivers = Receivers::new(worker.seal(), worker.config.webhooks.secret.clone());
        Self { worker, store, context, receivers, seats, heavy, over }
    }

    /// Begins an attempt for each of these deliveries, which were claimed at `claimed` or a little later.
    ///
    /// Most begin at once: they are complete, or have so many bytes of artifacts that the attempt reads them itself. For the
    /// others these are read in pieces ([`PIECE`]), and the webhooks of one piece are sent before the next one is read: so on a
    /// thin line the first webhooks do not wait for the bytes of the last. Deliveries for which something could not be read are
    /// given back.
    pub(super) async fn begin(
        &mut self,
        deliveries: Vec<Delivery>,
        claimed: Instant,
        choice: &mut Choice,
    ) -> Result<(), StoreError> {
        let mut failed = {
            let receivers = deliveries.iter().map(|delivery| &delivery.receiver);
            self.receivers.read(TASK, &self.store, receivers).await.err()
        };
        let is_read_here = |one: &Delivery| !one.is_complete && !one.is_heavy();
        let (mut light, others): (Vec<Delivery>, Vec<Delivery>) =
            deliveries.into_iter().partition(is_read_here);
        for delivery in others {
            self.start(delivery, claimed, choice).await;
        }
        while !light.is_empty() {
            let mut bytes = 0;
            let fitting = light.iter().take_while(|delivery| {
                bytes += delivery.artifact_bytes;
                bytes <= PIECE
            });
            let mut piece: Vec<Delivery> = light.drain(..fitting.count().max(1)).collect();
            let read = self.store.add_artifacts(&mut piece, self.context.terms.inline_limit).await;
            for delivery in piece {
                match &read {
                    Ok(()) => self.start(delivery, claimed, choice).await,
                    Err(_) => self.release(delivery, claimed, UNREAD_FOR, choice).await,
                }
            }
            failed = read.err().or(failed);
        }
        failed.map_or(Ok(()), Err)
    }

    /// Begins one attempt. It keeps its seat at least until its report is on its way to the settler, who takes only so many:
    /// so what is under way stays bounded even where Postgres is slow to write.
    async fn start(&self, delivery: Delivery, claimed: Instant, choice: &mut Choice) {
        let address = match self.receivers.address(&delivery.receiver) {
            Ok(address) => address,
            Err(Withheld { wait }) => return self.release(delivery, claimed, wait, choice).await,
        };
        let seat = choice.seat(delivery.receiver.lane, &self.seats);
        let weight =
            delivery.is_heavy().then(|| self.heavy.take(seat.lane().clone(), delivery.artifact_bytes));
        // Every line that the attempt logs names its job by this span, which is as grave as an error so that every FOREMAN_LOG
        // keeps it.
        let (job, seq, number) = (delivery.job, delivery.event.seq, delivery.attempt);
        let span = tracing::error_span!("delivery", job.id = %job, seq, attempt = number);
        // In a box before it is wrapped: each wrapper would copy its kilobytes.
        let attempt = Box::pin(Arc::clone(&self.context).attempt(delivery, weight, claimed, address));
        let (over, hard) = (self.over.clone(), self.worker.shutdown.hard().clone());
        let run = async move {
            // An attempt that is still under way at the end of the grace is dropped. Its claim ends by itself, and the
            // webhook is sent again.
            if let Some(attempted) = hard.run_until_cancelled(attempt).await {
                tell(&over, attempted, seat).await;
            }
        };
        self.worker.shutdown.spawn_work("delivery", run.instrument(span));
    }

    async fn release(&self, delivery: Delivery, claimed: Instant, wait: Duration, choice: &mut Choice) {
        let seat = choice.seat(delivery.receiver.lane, &self.seats);
        tell(&self.over, release(delivery, claimed, wait), seat).await;
    }
}

/// Hands a report to the settler, who listens until the end of the grace for as long as anybody can report.
async fn tell(over: &mpsc::Sender<Attempted>, mut attempted: Attempted, mut seat: Part) {
    if attempted.report.news.is_bad() {
        seat.may_be_told_later();
    }
    let mut seat = Some(seat);
    if attempted.changes_its_lane() {
        attempted.seat = seat.take();
    }
    if over.send(attempted).await.is_err() {
        tracing::warn!("the process ends before a webhook's outcome could be written; it will be sent again");
    }
}
