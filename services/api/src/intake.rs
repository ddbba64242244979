//! A job on its way into the queue, whichever route it came by: read, checked against all that can be wrong with it,
//! and offered to the submitter. Nothing is refused any more once it is in the queue.

use std::sync::Arc;

use axum::http::HeaderMap;
use bytes::Bytes;
use foreman_ollama::JobBody;
use foreman_store::{Acceptance, IdempotencyKey, JobId, JobReceiver, JobRequest};
use foreman_webhook::guard::SUBMISSION_BUDGET;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::access::auth::Caller;
use crate::access::shares::Held;
use crate::app::{App, Shared};
use crate::http::traceparent::traceparent;
use crate::refusal::Refusal;

pub(crate) mod inventory;
pub(crate) mod lines;
pub(crate) mod new_job;
pub(crate) mod submit;

use new_job::{NewJob, Times, idempotency_key};
use submit::{Accepted, Offered, Submission};

/// From this size on reading a body takes so long that other requests would notice, were it done on their thread.
const LARGE: usize = 256 << 10;

/// Large bodies that are read as JSON at the same time. Each is in memory twice by then, and is charged for once.
pub(crate) const LARGE_AT_ONCE: usize = 2;

/// Lines of all batches that may stand before the submitter at the same time: one flush that is being written and one
/// that gathers. So a batch keeps it busy, and a single job waits for two flushes at most.
pub(crate) const IN_LINE: usize = 1_000;

/// A request that brings jobs: what all of these share.
pub(crate) struct Intake {
    app: Shared,
    caller: Caller,
    headers: HeaderMap,
    came: Instant,
}

/// A job that was taken in.
pub(crate) enum Entry {
    /// It stands in line; its answer is still to come.
    Offered(Offered),
    /// It was accepted before, under the same key.
    Replayed(JobId),
}

impl Entry {
    /// Returns once the job is committed, or is known not to be.
    pub(crate) async fn answer(self) -> Result<Accepted, Refusal> {
        match self {
            Self::Offered(offered) => offered.answer().await.map_err(Refusal::from),
            Self::Replayed(job) => Ok(Accepted::Replayed(job)),
        }
    }
}

/// One of many that was taken in.
pub(crate) struct InLine {
    entry: Entry,
    _place: OwnedSemaphorePermit,
}

impl InLine {
    /// Returns once the job is committed, or is known not to be.
    pub(crate) async fn answer(self) -> Result<Accepted, Refusal> {
        self.entry.answer().await
    }
}

impl Intake {
    pub(crate) fn new(app: Shared, caller: Caller, headers: HeaderMap) -> Self {
        Self { app, caller, headers, came: Instant::now() }
    }

    /// Takes in one job. `held` is the memory of its bytes, until it is written.
    pub(crate) async fn take_in(&self, bytes: Bytes, held: Arc<Held>) -> Result<Entry, Refusal> {
        let size = bytes.len();
        let read = move || {
            let body = JobBody::parse(&bytes)
                .map_err(|error| Refusal::bad_request(error.code(), error.to_string()))?;
            let key = idempotency_key(&self.headers, &body, &bytes)?;
            // From here on the job stands in its payload alone.
            drop(bytes);
            Ok::<_, Refusal>((body, key))
        };
        let (body, key) = self.app.beside_others(size, read).await??;
        match self.check(body, key.clone(), held).await {
            Ok(submission) => self.offer(submission),
            Err(refusal) => self.replay(key.as_ref(), refusal).await.map(Entry::Replayed),
        }
    }

    /// Takes in one job of many, with its place in the line before the submitter. `held` is the memory of them all.
    pub(crate) async fn take_in_line(&self, bytes: Bytes, held: Arc<Held>) -> Result<InLine, Refusal> {
        let place = Arc::clone(&self.app.in_line).acquire_owned().await.map_err(|_| Refusal::internal())?;
        Ok(InLine { entry: self.take_in(bytes, held).await?, _place: place })
    }

    /// Takes in again what this job was asked to do.
    pub(crate) async fn take_in_again(
        &self,
        job: JobId,
        request: JobRequest,
        held: Arc<Held>,
    ) -> Result<Entry, Refusal> {
        let times = Times::from_now(self.app.store.clock().now(), self.app.job_ttl);
        self.offer(self.admit(request, times, Some(job), None, held).await?)
    }

    /// Checks all that can be wrong with a job that a client asks for.
    async fn check(
        &self,
        body: JobBody,
        idempotency: Option<IdempotencyKey>,
        held: Arc<Held>,
    ) -> Result<Submission, Refusal> {
        let Self { app, caller, .. } = self;
        let job = NewJob::of(body, app.store.clock().now(), app.job_ttl)?;
        if let Some(webhook) = &job.webhook {
            // One budget for all the names in a request.
            let checked = app.receivers.check(&webhook.url, self.came + SUBMISSION_BUDGET).await;
            checked.map_err(|error| Refusal::unprocessable(error.code(), error.to_string()))?;
        }
        let model = app.inventory.find(job.body.load_key.model(), self.came).await?;
        let request = JobRequest {
            client: caller.client,
            model: job.body.model,
            model_label: model.label,
            load_key: job.body.load_key.as_str().to_owned(),
            path: job.body.route.path().to_owned(),
            body: job.body.payload,
            priority: job.priority,
            max_attempts: job.max_attempts,
            metadata: job.metadata,
            receiver: job.webhook.map(|webhook| JobReceiver {
                url: webhook.url.as_str().to_owned(),
                origin: webhook.url.origin(),
                events: webhook.events,
            }),
        };
        self.admit(request, job.times, None, idempotency, held).await
    }

    /// Finds room for a job in the queue of its client.
    async fn admit(
        &self,
        request: JobRequest,
        times: Times,
        retry_of: Option<JobId>,
        idempotency: Option<IdempotencyKey>,
        held: Arc<Held>,
    ) -> Result<Submission, Refusal> {
        let admission = self.app.limits.admit(request.client, request.body.len()).await?;
        let traceparent = traceparent(&self.headers);
        Ok(Submission { request, times, retry_of, traceparent, idempotency, admission, held })
    }

    fn offer(&self, submission: Submission) -> Result<Entry, Refusal> {
        Ok(Entry::Offered(self.app.submitter.offer(submission)?))
    }

    /// A job that was accepted once under this key stays accepted, even where it would be refused now: the client's
    /// queue may be full by now, or its `expires_at` past.
    async fn replay(&self, key: Option<&IdempotencyKey>, refusal: Refusal) -> Result<JobId, Refusal> {
        let Some(key) = key else { return Err(refusal) };
        // Whoever is refused often asks often.
        let Ok(_turn) = self.app.reads.turn(self.caller.client).await else { return Err(refusal) };
        match self.app.store.key_holder(self.caller.client, key).await {
            Ok(Some(Acceptance::Replayed(job))) => Ok(job),
            _ => Err(refusal),
        }
    }
}

impl App {
    /// Runs what takes its time over so many bytes; if they are many, where it keeps no other request waiting, and with few
    /// others beside it.
    pub(crate) async fn beside_others<T>(
        &self,
        bytes: usize,
        work: impl FnOnce() -> T,
    ) -> Result<T, Refusal> {
        if bytes < LARGE {
            return Ok(work());
        }
        let _turn = self.large.acquire().await.map_err(|_| Refusal::internal())?;
        Ok(tokio::task::block_in_place(work))
    }
}
