//! The task behind the submitter: gather, write, answer, and find out what became of a flush without an answer.

use std::sync::Arc;
use std::time::Duration;

use foreman_runtime::background::jittered;
use foreman_runtime::{Shutdown, background_error, stalls};
use foreman_store::{AcceptError, Acceptance, Flush, JobId, NewJob, Store, StoreError};
use metrics::counter;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{Accepted, Answer, NotAccepted, Queue, Queued, SUBMITTED, Submission};
use crate::access::limits::Admission;
use crate::access::shares::Held;

/// One flush is at most so many jobs and so many bytes of bodies; a larger body goes alone.
const MAX_JOBS: usize = 500;
const MAX_BYTES: usize = 8 << 20;

/// How long a flush that loses conflicts is tried again, and after what wait each time. A wait for a lock is one of them, and
/// others wait behind it.
const CONFLICTS_FOR: Duration = Duration::from_secs(6);
const CONFLICT_DELAY: Duration = Duration::from_millis(20);

/// The largest flush, with its conflicts, over a thin line.
const FLUSH: Duration = Duration::from_secs(120);

/// How long we ask which jobs of a flush without an answer were accepted. A flush begins within 3 s, and Postgres ends it
/// within 8.
const LOOK_UP_FOR: Duration = Duration::from_secs(12);
const LOOK_UP_EVERY: Duration = Duration::from_millis(200);

/// What is kept of a submission while its job is being written.
struct Ticket {
    model_label: String,
    admission: Admission,
    _held: Arc<Held>,
    answer: oneshot::Sender<Answer>,
}

/// Writes what the submitter is handed.
pub(crate) struct Writer {
    pub(crate) store: Store,
    /// For flushes alone.
    pub(crate) flushes: Store,
    pub(crate) shutdown: Shutdown,
}

impl Writer {
    /// Flushes until nobody submits any more, which `last_request` says, and then what is left.
    pub(crate) async fn run(self, mut queue: Queue, last_request: CancellationToken) {
        let mut carried = None;
        loop {
            let first = match carried.take() {
                Some(queued) => queued,
                None => tokio::select! {
                    Some(queued) = queue.0.recv() => queued,
                    () = last_request.cancelled(), if !queue.0.is_closed() => {
                        queue.0.close();
                        continue;
                    }
                    else => return,
                },
            };
            let mut batch = vec![first];
            let mut bytes = size(&batch[0]);
            while batch.len() < MAX_JOBS
                && let Ok(next) = queue.0.try_recv()
            {
                bytes += size(&next);
                if bytes > MAX_BYTES {
                    carried = Some(next);
                    break;
                }
                batch.push(next);
            }
            stalls::round("submit", FLUSH, self.flush(batch)).await;
        }
    }

    async fn flush(&self, mut batch: Vec<Queued>) {
        // A client that gave up before anything was written will send its job again.
        batch.retain(|queued| !queued.answer.is_closed());
        if batch.is_empty() {
            return;
        }
        // Numbered here, one after the other, so that ids rise in the order of the queue.
        let (jobs, tickets): (Vec<NewJob>, Vec<Ticket>) =
            batch.into_iter().map(|queued| queued.stamp(self.store.clock().next_job_id())).unzip();
        match self.accept(&jobs).await {
            Ok(acceptances) => self.answer(acceptances, tickets),
            Err(AcceptError::Not(StoreError::BadData(error))) if jobs.len() > 1 => {
                tracing::debug!(%error, "a flush holds a job that cannot be stored; each goes by itself");
                for (job, ticket) in jobs.into_iter().zip(tickets) {
                    match self.accept(std::slice::from_ref(&job)).await {
                        Ok(acceptances) => self.answer(acceptances, vec![ticket]),
                        Err(error) => self.give_up(error, vec![job.id], vec![ticket]),
                    }
                }
            }
            Err(error) => self.give_up(error, jobs.iter().map(|job| job.id).collect(), tickets),
        }
    }

    /// Accepts all of them, whoever stands in the way.
    async fn accept(&self, jobs: &[NewJob]) -> Result<Vec<Acceptance>, AcceptError> {
        let began = Instant::now();
        loop {
            match self.flushes.accept(jobs).await {
                Err(AcceptError::Not(StoreError::Contended(_))) if began.elapsed() < CONFLICTS_FOR => {
                    sleep(jittered(CONFLICT_DELAY)).await;
                }
                answer => return answer,
            }
        }
    }

    fn answer(&self, acceptances: Vec<Acceptance>, tickets: Vec<Ticket>) {
        for (acceptance, ticket) in acceptances.into_iter().zip(tickets) {
            match acceptance {
                Acceptance::Accepted(job) => ticket.accepted(job),
                Acceptance::Replayed(job) => ticket.tell(Ok(Accepted::Replayed(job))),
                Acceptance::KeyReused => ticket.tell(Err(NotAccepted::KeyReused)),
                Acceptance::OfferAgain => ticket.tell(Err(NotAccepted::Unavailable)),
            }
        }
    }

    fn give_up(&self, error: AcceptError, ids: Vec<JobId>, tickets: Vec<Ticket>) {
        let answer = match error {
            AcceptError::Not(StoreError::BadData(error)) => {
                tracing::warn!(job.id = ids.first().map(tracing::field::display), %error, "the database refused a job");
                NotAccepted::Refused
            }
            AcceptError::Unknown { error, flush } => {
                background_error!("submit", error, jobs = ids.len(), "a flush got no answer");
                // Beside the loop: others need not wait for these.
                self.shutdown.spawn_work("submit", look_up(self.store.clone(), flush, ids, tickets));
                return;
            }
            error => {
                background_error!("submit", error, jobs = ids.len(), "a flush failed");
                NotAccepted::Unavailable
            }
        };
        tickets.into_iter().for_each(|ticket| ticket.tell(Err(answer)));
    }
}

/// Finds out which jobs of a flush without an answer were accepted.
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
    for (id, ticket) in ids.into_iter().zip(tickets) {
        match &found {
            Some(found) if found.contains(&id) => ticket.accepted(id),
            Some(_) => ticket.tell(Err(NotAccepted::Unavailable)),
            None => ticket.tell(Err(NotAccepted::Unknown)),
        }
    }
}

impl Queued {
    fn stamp(self, id: JobId) -> (NewJob, Ticket) {
        let Self { submission, answer } = self;
        let Submission { request, times, retry_of, traceparent, idempotency, admission, held } = submission;
        let ticket = Ticket { model_label: request.model_label.clone(), admission, _held: held, answer };
        let job = NewJob {
            id,
            request,
            run_at: times.run_at,
            expires_at: times.expires_at,
            retry_of,
            traceparent,
            idempotency,
        };
        (job, ticket)
    }
}

impl Ticket {
    fn accepted(self, job: JobId) {
        counter!(SUBMITTED.name, "model" => self.model_label).increment(1);
        self.admission.keep();
        // A client that is gone finds its job by its key, or in the list.
        let _ = self.answer.send(Ok(Accepted::New(job)));
    }

    fn tell(self, answer: Answer) {
        // Whoever is gone needs no answer.
        let _ = self.answer.send(answer);
    }
}

fn size(queued: &Queued) -> usize {
    queued.submission.request.body.len()
}
