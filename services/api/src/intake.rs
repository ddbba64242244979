//! Takes jobs into the queue, for every route that brings them: parses a job, checks it, and offers it to the submitter.
//!
//! Every check comes before the offer. Must never refuse a job that may be in the queue already.

use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use foreman_ollama::{JobBody, SyncBody, SyncBodyError};
use foreman_store::{Acceptance, IdempotencyKey, JobId, JobReceiver, JobRequest, KnownModel, UserName};
use foreman_webhook::guard::{Asker, SUBMISSION_BUDGET};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::access::auth::Caller;
use crate::access::shares::Holding;
use crate::app::{App, Shared};
use crate::http::traceparent::traceparent;
use crate::http::user::user;
use crate::live::hang_ups::{Accepting, Guard};
use crate::refusal::Refusal;

pub(crate) mod inventory;
pub(crate) mod lines;
pub(crate) mod parsed_job;
pub(crate) mod submit;

use parsed_job::{ParsedJob, Times, idempotency_key};
use submit::{Accepted, PendingReply, Submission, WaitingCaller};

/// From this size on, parsing a body takes so long that it would delay other requests on the same thread.
const LARGE: usize = 256 << 10;

/// At most this many large bodies are parsed at the same time. A body is in memory twice while it is parsed, but its request
/// holds memory for one copy only.
pub(crate) const LARGE_PARSES: usize = 2;

/// Batch lines queued at the submitter, over all batches: two flushes' worth. Enough to keep it busy, and a single job waits
/// for at most two flushes.
pub(crate) const BATCH_LINES: usize = 1_000;

/// OpenAI's and Anthropic's libraries count in this header how often they have repeated a request by themselves.
const RETRY_COUNT: &str = "x-stainless-retry-count";

/// A repeat of a request comes within this time. The libraries wait for 8 s at most, or as `Retry-After` says.
const REPEATS_WITHIN: Duration = Duration::from_secs(60);

/// A request that brings jobs. All of its jobs share these values.
pub(crate) struct Intake {
    app: Shared,
    caller: Caller,
    headers: HeaderMap,
    /// For whom the caller asks.
    user: UserName,
    began: Instant,
}

/// A job that has passed every check, or was accepted earlier.
pub(crate) enum TakenIn {
    /// The submitter has the job and will reply.
    Offered(PendingReply),
    /// An earlier request brought the same job under the same idempotency key.
    Replayed(JobId),
}

impl TakenIn {
    /// Waits until the job is committed, or is known not to be.
    pub(crate) async fn accepted(self) -> Result<Accepted, Refusal> {
        match self {
            Self::Offered(mut reply) => Ok(reply.wait().await?),
            Self::Replayed(job) => Ok(Accepted::Replayed(job)),
        }
    }
}

impl Intake {
    pub(crate) fn new(app: Shared, caller: Caller, headers: HeaderMap) -> Result<Self, Refusal> {
        let user = user(&headers)?;
        Ok(Self { app, caller, headers, user, began: Instant::now() })
    }

    /// Takes in one job. `held` is the memory that the job holds until it is written.
    pub(crate) async fn take_in(&self, bytes: Bytes, held: Arc<Holding>) -> Result<TakenIn, Refusal> {
        let size = bytes.len();
        let parse = move || {
            let body = JobBody::parse(&bytes)
                .map_err(|error| Refusal::bad_request(error.code(), error.to_string()))?;
            let key = idempotency_key(&self.headers, body.own("idempotency_key"), &bytes)?;
            // From here on only the payload within `body` is in memory.
            drop(bytes);
            Ok::<_, Refusal>((body, key))
        };
        let (body, key) = self.app.parse_beside_others(size, parse).await??;
        match self.check(body, key.clone(), held).await {
            Ok(submission) => self.offer(submission),
            Err(refusal) => self.replay(key.as_ref(), refusal).await.map(TakenIn::Replayed),
        }
    }

    /// The model of a sync call, or Ollama's own words for a model that cannot run it.
    pub(crate) async fn model(&self, body: &SyncBody) -> Result<KnownModel, Refusal> {
        self.known_model(body).await.map_err(|refusal| match refusal.code() {
            inventory::UNKNOWN => SyncBodyError::model_not_found(body.route.kind(), &body.model).into(),
            inventory::ONLY_EMBEDS => SyncBodyError::only_embeds(body).into(),
            _ => refusal,
        })
    }

    /// The same, with a refusal in our words.
    async fn known_model(&self, body: &SyncBody) -> Result<KnownModel, Refusal> {
        let (inventory, name) = (&self.app.inventory, body.load_key.model());
        if body.route.embeds() {
            inventory.find_any(name, self.began).await
        } else {
            inventory.find(name, self.began).await
        }
    }

    /// The job of a call that its client's library has repeated by itself, if that job still waits or runs. It has another
    /// caller now.
    pub(crate) async fn repeated_call(&self, body: &SyncBody) -> Result<Option<Guard>, Refusal> {
        let (app, client) = (&self.app, self.caller.client);
        let count = self.headers.get(RETRY_COUNT).and_then(|count| count.to_str().ok()?.parse::<u32>().ok());
        if count.is_none_or(|count| count == 0) {
            return Ok(None);
        }
        let _permit = app.reads.permit(client).await?;
        let path = body.route.path();
        let job = app.store.repeat_of(client, &self.user, path, &body.payload, REPEATS_WITHIN).await?;
        let Some(job) = job else { return Ok(None) };
        let guard = Guard::new(app.hang_ups.clone(), client, job);
        if app.store.adopt(job, app.api).await? {
            return Ok(Some(guard));
        }
        // It has ended meanwhile.
        guard.done();
        Ok(None)
    }

    /// Takes in a sync call. Its caller waits for the answer.
    pub(crate) async fn take_in_call(
        &self,
        body: SyncBody,
        model: KnownModel,
        held: Arc<Holding>,
    ) -> Result<Accepting, Refusal> {
        let (app, client) = (&self.app, self.caller.client);
        let caller = WaitingCaller { api: app.api, gone: app.hang_ups.sender() };
        let times = Times::from_now(app.store.clock().now(), app.job_ttl);
        let request = self.sync_request(body, model);
        let submission =
            Submission { caller: Some(caller), ..self.admit(request, times, None, None, held).await? };
        Ok(Accepting::new(app.submitter.offer(submission)?, app.hang_ups.clone(), client))
    }

    /// Takes in the request of a sync call for whose answer nobody waits.
    pub(crate) async fn take_in_sync_body(
        &self,
        body: SyncBody,
        model: KnownModel,
        held: Arc<Holding>,
    ) -> Result<TakenIn, Refusal> {
        let times = Times::from_now(self.app.store.clock().now(), self.app.job_ttl);
        let request = self.sync_request(body, model);
        self.offer(self.admit(request, times, None, None, held).await?)
    }

    /// Takes in the load of a model, which begins at `run_at`, or at once. An idempotency key stands for the model and for
    /// `asked`, the bytes of the request.
    pub(crate) async fn take_in_load(
        &self,
        load: SyncBody,
        run_at: Option<DateTime<Utc>>,
        asked: &[u8],
        held: Arc<Holding>,
    ) -> Result<TakenIn, Refusal> {
        let key = idempotency_key(&self.headers, None, &[load.payload.as_bytes(), asked].concat())?;
        match self.check_load(load, run_at, key.clone(), held).await {
            Ok(submission) => self.offer(submission),
            Err(refusal) => self.replay(key.as_ref(), refusal).await.map(TakenIn::Replayed),
        }
    }

    async fn check_load(
        &self,
        load: SyncBody,
        run_at: Option<DateTime<Utc>>,
        idempotency: Option<IdempotencyKey>,
        held: Arc<Holding>,
    ) -> Result<Submission, Refusal> {
        let times = Times::from(run_at, self.app.store.clock().now(), self.app.job_ttl)?;
        let model = self.known_model(&load).await?;
        self.admit(self.sync_request(load, model), times, None, idempotency, held).await
    }

    fn sync_request(&self, body: SyncBody, model: KnownModel) -> JobRequest {
        JobRequest {
            client: self.caller.client,
            user: self.user.clone(),
            model: body.model,
            model_label: model.label,
            load_key: body.load_key.as_str().to_owned(),
            path: body.route.path().to_owned(),
            body: body.payload,
            priority: 0,
            max_attempts: None,
            metadata: None,
            receiver: None,
        }
    }

    /// Waits until the submitter has room for one more line of a batch. The caller holds the permit until the line's job is
    /// written.
    pub(crate) async fn batch_line(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        Arc::clone(&self.app.batch_lines).acquire_owned().await.map_err(|_| Refusal::internal())
    }

    /// Takes in a new job with the request of an ended job.
    pub(crate) async fn take_in_again(
        &self,
        job: JobId,
        request: JobRequest,
        held: Arc<Holding>,
    ) -> Result<TakenIn, Refusal> {
        let times = Times::from_now(self.app.store.clock().now(), self.app.job_ttl);
        self.offer(self.admit(request, times, Some(job), None, held).await?)
    }

    /// Checks everything that can be wrong with a job.
    async fn check(
        &self,
        body: JobBody,
        idempotency: Option<IdempotencyKey>,
        held: Arc<Holding>,
    ) -> Result<Submission, Refusal> {
        let Self { app, caller, .. } = self;
        let job = ParsedJob::of(body, app.store.clock().now(), app.job_ttl)?;
        if let Some(receiver) = &job.receiver {
            // All receivers of one request share one budget for looking up their names.
            let deadline = self.began + SUBMISSION_BUDGET;
            app.receivers.check(Asker::of(caller.client), &receiver.url, deadline).await?;
        }
        let model = app.inventory.find(job.body.load_key.model(), self.began).await?;
        let request = JobRequest {
            client: caller.client,
            user: self.user.clone(),
            model: job.body.model,
            model_label: model.label,
            load_key: job.body.load_key.as_str().to_owned(),
            path: job.body.route.path().to_owned(),
            body: job.body.payload,
            priority: job.priority,
            max_attempts: job.max_attempts,
            metadata: job.metadata,
            receiver: job.receiver.map(|receiver| JobReceiver {
                url: receiver.url.as_str().to_owned(),
                origin: receiver.url.origin(),
                events: receiver.events,
            }),
        };
        self.admit(request, job.times, None, idempotency, held).await
    }

    /// Reserves room for a job within the limits of its client.
    async fn admit(
        &self,
        request: JobRequest,
        times: Times,
        retry_of: Option<JobId>,
        idempotency: Option<IdempotencyKey>,
        held: Arc<Holding>,
    ) -> Result<Submission, Refusal> {
        let admission = self.app.limits.admit(request.client, request.body.len()).await?;
        let traceparent = traceparent(&self.headers);
        Ok(Submission { request, times, retry_of, traceparent, idempotency, caller: None, admission, held })
    }

    fn offer(&self, submission: Submission) -> Result<TakenIn, Refusal> {
        Ok(TakenIn::Offered(self.app.submitter.offer(submission)?))
    }

    /// Finds the job that was accepted earlier under this key. Such a job stays accepted, even where it would be refused now
    /// because the client's queue is full or its `expires_at` has passed. If there is none, the refusal stands.
    async fn replay(&self, key: Option<&IdempotencyKey>, refusal: Refusal) -> Result<JobId, Refusal> {
        let Some(key) = key else { return Err(refusal) };
        // A client that is refused tends to ask often, so this look at the database counts as one of its reads.
        let Ok(_permit) = self.app.reads.permit(self.caller.client).await else { return Err(refusal) };
        match self.app.store.key_holder(self.caller.client, key).await {
            Ok(Some(Acceptance::Replayed(job))) => Ok(job),
            _ => Err(refusal),
        }
    }
}

impl App {
    /// Runs `parse`, which reads a body of this many bytes. A large body is parsed where it delays no other request, together
    /// with at most one other.
    pub(crate) async fn parse_beside_others<T>(
        &self,
        bytes: usize,
        parse: impl FnOnce() -> T,
    ) -> Result<T, Refusal> {
        if bytes < LARGE {
            return Ok(parse());
        }
        let _permit = self.large_parses.acquire().await.map_err(|_| Refusal::internal())?;
        Ok(tokio::task::block_in_place(parse))
    }
}
