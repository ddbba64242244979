//! The task of the submitter: writes each flush, and replies about each of its jobs. When Postgres gives no answer about a
//! flush, the task asks which of its jobs were accepted.
//!
//! Must never reply that a job was not accepted while its flush may still be written.

use std::sync::Arc;
use std::time::Duration;

use foreman_runtime::background::jittered;
use foreman_runtime::{Shutdown, background_error, stalls};
use foreman_store::{AcceptError, Acceptance, ClientId, Flush, JobId, NewJob, Store, StoreError};
use metrics::counter;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{Accepted, NotAccepted, Offer, Offers, Reply, SUBMITTED, Submission};
use crate::access::limits::Admission;
use crate::access::shares::Holding;

/// A flush that loses a conflict with another transaction is tried again for this long, after this delay each time. A wait for
/// a lock that took too long counts as a conflict. The total is bounded, because later flushes wait meanwhile.
const CONFLICTS_FOR: Duration = Duration::from_secs(6);
const CONFLICT_DELAY: Duration = Duration::from_millis(20);

/// A flush should be over within this time: the largest one, with its conflicts, over a slow line to Postgres.
const FLUSH: Duration = Duration::from_secs(120);

/// When Postgres gave no answer about a flush, we ask for this long which of its jobs were accepted. A flush begins within 3 s,
/// and Postgres ends it within 8 s.
const LOOK_UP_FOR: Duration = Duration::from_secs(12);
const LOOK_UP_EVERY: Duration = Duration::from_millis(200);

/// The part of a submission that stays here while its job is written.
struct Ticket {
    model_label: String,
    /// Given for a sync call: who is told of the job, if its caller has gone.
    gone: Option<(UnboundedSender<(ClientId, JobId)>, ClientId)>,
    admission: Admission,
    _held: Arc<Holding>,
    reply: oneshot::Sender<Reply>,
}

/// Writes the jobs that are offered to the submitter.
pub(crate) struct Writer {
    pub(crate) store: Store,
    /// A handle with a connection of its own, for flushes only.
    pub(crate) flushes: Store,
    pub(crate) shutdown: Shutdown,
}

impl Writer {
    /// Flushes offers until `last_request`, and then the offers that are left.
    pub(crate) async fn run(self, mut offers: Offers, last_request: CancellationToken) {
        while let Some(flush) = offers.next_flush(&last_request).await {
            stalls::round("submit", FLUSH, self.flush(flush)).await;
        }
    }

    async fn flush(&self, mut offers: Vec<Offer>) {
        // A client that hung up before its job was written will send the job again.
        offers.retain(|offer| !offer.reply.is_closed());
        if offers.is_empty() {
            return;
        }
        // The jobs get their ids here, one after the other, so that ids rise in the order of the offers.
        let (jobs, tickets): (Vec<NewJob>, Vec<Ticket>) =
            offers.into_iter().map(|offer| offer.stamp(self.store.clock().next_job_id())).unzip();
        match self.accept(&jobs).await {
            Ok(acceptances) => reply_to_all(acceptances, tickets),
            Err(AcceptError::Not(StoreError::BadData(error))) if jobs.len() > 1 => {
                tracing::debug!(%error, "a flush has a job that cannot be stored; each job is written alone");
                for (job, ticket) in jobs.into_iter().zip(tickets) {
                    match self.accept(std::slice::from_ref(&job)).await {
                        Ok(acceptances) => reply_to_all(acceptances, vec![ticket]),
                        Err(error) => self.give_up(error, vec![job.id], vec![ticket]),
                    }
                }
            }
            Err(error) => self.give_up(error, jobs.iter().map(|job| job.id).collect(), tickets),
        }
    }

    /// Accepts the jobs. Tries again after a conflict.
    async fn accept(&self, jobs: &[NewJob]) -> Result<Vec<Acceptance>, AcceptError> {
        let began = Instant::now();
        loop {
            match self.flushes.accept(jobs).await {
                Err(AcceptError::Not(StoreError::Contended(_))) if began.elapsed() < CONFLICTS_FOR => {
                    sleep(jittered(CONFLICT_DELAY)).await;
                }
                result => return result,
            }
        }
    }

    fn give_up(&self, error: AcceptError, ids: Vec<JobId>, tickets: Vec<Ticket>) {
        let reason = match error {
            AcceptError::Not(StoreError::BadData(error)) => {
                tracing::warn!(job.id = ids.first().map(tracing::field::display), %error, "the database refused a job");
                NotAccepted::Refused
            }
            AcceptError::Unknown { error, flush } => {
                background_error!("submit", error, jobs = ids.len(), "a flush got no answer");
                // Beside the loop, so that later flushes do not wait.
                self.shutdown.spawn_work("submit", look_up(self.store.clone(), flush, ids, tickets));
                return;
            }
            error => {
                background_error!("submit", error, jobs = ids.len(), "a flush failed");
                NotAccepted::Unavailable
            }
        };
        tickets.into_iter().for_each(|ticket| ticket.reply(Err(reason)));
    }
}

/// Finds out which jobs of a flush were accepted when Postgres gave no answer about it, and replies.
async fn look_up(store: Store, flush: Flush, ids: Vec<JobId>, tickets: Vec<Ticket>) {
    const UNKNOWN: &str = "nobody knows whether these jobs were accepted";
    let deadline = Instant::now() + LOOK_UP_FOR;
    let found = loop {
        match store.look_up(&flush, &ids).await {
            Ok(Some(found)) => break Some(found),
            _ if Instant::now() < deadline => sleep(jittered(LOOK_UP_EVERY)).await,
            Ok(None) => {
                tracing::error!(jobs = ids.len(), "{UNKNOWN}: Postgres has not ended their flush");
                break None;
            }
            Err(error) => {
                background_error!("submit", error, jobs = ids.len(), "{UNKNOWN}");
                break None;
            }
        }
    };
    reply_after_look_up(found.as_deref(), ids, tickets);
}

fn reply_to_all(acceptances: Vec<Acceptance>, tickets: Vec<Ticket>) {
    for (acceptance, ticket) in acceptances.into_iter().zip(tickets) {
        match acceptance {
            Acceptance::Accepted(job) => ticket.accepted(job),
            Acceptance::Replayed(job) => ticket.reply(Ok(Accepted::Replayed(job))),
            Acceptance::KeyReused => ticket.reply(Err(NotAccepted::KeyReused)),
            Acceptance::OfferAgain => ticket.reply(Err(NotAccepted::Unavailable)),
        }
    }
}

/// `found` are the accepted jobs among `ids`, or `None` if nobody could find that out.
fn reply_after_look_up(found: Option<&[JobId]>, ids: Vec<JobId>, tickets: Vec<Ticket>) {
    for (id, ticket) in ids.into_iter().zip(tickets) {
        match found {
            Some(found) if found.contains(&id) => ticket.accepted(id),
            Some(_) => ticket.reply(Err(NotAccepted::Unavailable)),
            None => ticket.reply(Err(NotAccepted::Unknown)),
        }
    }
}

impl Offer {
    fn stamp(self, id: JobId) -> (NewJob, Ticket) {
        let Self { submission, reply } = self;
        let Submission { request, times, retry_of, traceparent, idempotency, caller, admission, held } =
            submission;
        let api = caller.as_ref().map(|caller| caller.api);
        let gone = caller.map(|caller| (caller.gone, request.client));
        let ticket = Ticket { model_label: request.model_label.clone(), gone, admission, _held: held, reply };
        let job = NewJob {
            id,
            request,
            run_at: times.run_at,
            expires_at: times.expires_at,
            retry_of,
            traceparent,
            idempotency,
            api,
        };
        (job, ticket)
    }
}

impl Ticket {
    fn accepted(self, job: JobId) {
        counter!(SUBMITTED.name, "model" => self.model_label).increment(1);
        self.admission.keep();
        if self.reply.send(Ok(Accepted::New(job))).is_err() {
            // The client is gone. It finds its job by the idempotency key, or in the list. A sync call is worth nothing
            // without its caller.
            if let Some((gone, client)) = self.gone {
                let _ = gone.send((client, job));
            }
        }
    }

    fn reply(self, reply: Reply) {
        // If the client is gone, nobody needs the reply.
        let _ = self.reply.send(reply);
    }
}

#[cfg(test)]
mod tests;
