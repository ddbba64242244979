//! Writes jobs, events and deliveries in the JSON of Foreman's own routes. Every field is always there, and a field without a
//! value is `null`.

use std::borrow::Cow;

use chrono::{DateTime, TimeDelta, Utc};
use foreman_store::{ArtifactView, DeliveryPage, DeliveryView, JobHistory, JobId, JobView};
use foreman_webhook::event::{artifact_url, raw, result};
use foreman_webhook::{Artifact, ArtifactContent, Event, rfc3339};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use utoipa::ToSchema;

use crate::app::App;
use crate::describe::schema;
use crate::forecasts::Prospect;

/// A job. Every field is always there; what has no value is `null`. Times are RFC 3339, in UTC.
#[derive(Serialize, ToSchema)]
pub(crate) struct Job<'a> {
    /// Its ULID.
    #[schema(value_type = String, min_length = 26, max_length = 26)]
    job_id: JobId,
    #[schema(value_type = schema::State)]
    state: &'static str,
    /// The model as the job names it.
    model: &'a str,
    /// For whom the client submitted it; `null` where it did not say.
    user: Option<&'a str>,
    #[schema(format = DateTime)]
    created_at: String,
    /// When the last attempt began.
    #[schema(format = DateTime)]
    started_at: Option<String>,
    #[schema(format = DateTime)]
    completed_at: Option<String>,
    /// How often it was claimed by a worker.
    #[schema(minimum = 0)]
    attempt: i32,
    /// The number of its last transition, from 1.
    #[schema(minimum = 1)]
    seq: i32,
    /// Ollama's answer as one object; `null` before the end and above the inline limit. Lists leave this out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>, required = false)]
    result: Option<Option<&'a RawValue>>,
    /// Why the job failed, or why its last attempt failed.
    error: Option<&'a str>,
    /// The same for programs: stable snake_case.
    error_code: Option<&'a str>,
    #[schema(value_type = Vec<schema::Artifact>)]
    artifacts: Vec<Artifact<'a>>,
    /// Its place among the jobs that wait for a host: 1 is next. Jobs that come later can still go before it, because the
    /// GPU is shared between clients. `null` while the job does not wait, while it waits for a time, behind the first 1,000
    /// jobs, where no host has told it yet (they do each second, and beside very long queues up to ten seconds apart), and
    /// where no host takes jobs.
    #[schema(minimum = 1)]
    position: Option<u64>,
    /// When the job is expected to begin, by what the hosts have measured so far. A job that waits for a time begins then at
    /// the earliest. `null` where `position` is, except while it waits for a time, and where no run of any model was measured.
    #[schema(format = DateTime)]
    eta: Option<String>,
    /// Why the job waits, in one sentence. `null` where nobody knows, and while it does not wait.
    waiting_for: Option<&'a str>,
    /// The context length in tokens with which the job ran. `null` until it has ended, and where it ran in Ollama's
    /// cloud, did not run, or Ollama did not tell the length.
    #[schema(minimum = 1)]
    context: Option<i64>,
    usage: Usage,
    timing: Timing,
    /// Failed attempts, which `max_attempts` limits.
    #[schema(minimum = 0)]
    failures: i16,
    /// How often its worker was lost.
    #[schema(minimum = 0)]
    rescues: i16,
    cancel_requested: bool,
    /// The job that this one repeats.
    #[schema(value_type = Option<String>)]
    retry_of: Option<JobId>,
    #[schema(minimum = -100, maximum = 100)]
    priority: i16,
    /// `null` leaves it to the worker.
    #[schema(minimum = 1, maximum = 20)]
    max_attempts: Option<i16>,
    /// As it came with the job.
    #[schema(value_type = Option<Object>)]
    metadata: Option<&'a RawValue>,
    state_webhook_url: Option<&'a str>,
    /// The states that are sent; `null` means all states.
    #[schema(value_type = Option<Vec<schema::State>>)]
    webhook_events: Option<&'a [String]>,
    #[schema(format = DateTime)]
    run_at: Option<String>,
    /// The job waits until this time, and then expires.
    #[schema(format = DateTime)]
    expires_at: String,
}

/// Tokens, as Ollama counted them.
#[derive(Serialize, ToSchema)]
pub(crate) struct Usage {
    prompt_tokens: Option<i64>,
    completion_tokens: Option<i64>,
}

/// Milliseconds of the last attempt. A part that has not ended yet is `null`.
#[derive(Serialize, ToSchema)]
pub(crate) struct Timing {
    wait_ms: Option<i64>,
    load_ms: Option<i64>,
    run_ms: Option<i64>,
}

/// A page of a list. `last_id` is the `after` of the next one.
#[derive(Serialize, ToSchema)]
pub(crate) struct Page<T> {
    data: Vec<T>,
    has_more: bool,
    last_id: Option<String>,
}

impl<T> Page<T> {
    pub(super) fn new(data: Vec<T>, has_more: bool, last_id: Option<String>) -> Self {
        Self { data, has_more, last_id }
    }
}

/// A webhook on its way to one receiver, or arrived there.
#[derive(Serialize, ToSchema)]
pub(crate) struct Delivery<'a> {
    /// Its ULID.
    delivery_id: String,
    /// The transition that this webhook reports.
    #[schema(minimum = 1)]
    seq: i32,
    /// `job.` and the state.
    r#type: String,
    url: &'a str,
    #[schema(value_type = schema::DeliveryState)]
    state: &'static str,
    #[schema(format = DateTime)]
    next_attempt_at: Option<String>,
    /// Until then nothing is sent to this receiver: it asked for time, or failed ten times in a row.
    #[schema(format = DateTime)]
    held_until: Option<String>,
    attempts: Vec<Attempt<'a>>,
}

/// One attempt to deliver a webhook.
#[derive(Serialize, ToSchema)]
pub(crate) struct Attempt<'a> {
    /// From 1.
    #[schema(minimum = 1)]
    attempt: i16,
    #[schema(format = DateTime)]
    at: String,
    /// The status of the receiver's answer, if it answered.
    status: Option<i16>,
    error_code: Option<&'a str>,
    latency_ms: Option<i32>,
    /// The first bytes of the receiver's answer.
    #[schema(value_type = Option<String>)]
    response: Option<Cow<'a, str>>,
}

/// One job in full.
pub(crate) fn job(app: &App, job: &JobView, prospect: &Prospect) -> Vec<u8> {
    let shown = show(app, job, prospect);
    json(&Job { result: Some(result(&shown.artifacts)), ..shown })
}

/// A page of jobs. `next` is where the following page begins.
pub(crate) fn jobs(app: &App, jobs: &[JobView], prospects: &[Prospect], next: Option<JobId>) -> Vec<u8> {
    let data: Vec<_> = jobs.iter().zip(prospects).map(|(job, prospect)| show(app, job, prospect)).collect();
    let last_id = next.or_else(|| jobs.last().map(|job| job.id)).map(|id| id.to_string());
    json(&Page { data, has_more: next.is_some(), last_id })
}

/// The history of a job. Each entry is the body of the event's webhook.
pub(crate) fn history(app: &App, job: JobId, history: &JobHistory) -> Vec<u8> {
    let (seqs, data): (Vec<i32>, Vec<_>) = events(app, job, history).unzip();
    let last_id = seqs.last().map(|seq| foreman_webhook::sign::message_id(&job.to_string(), (*seq).into()));
    json(&Page { data, has_more: false, last_id })
}

/// The events of a history, each with its `seq` and the body of its webhook.
pub(crate) fn events(
    app: &App,
    job: JobId,
    history: &JobHistory,
) -> impl Iterator<Item = (i32, Box<RawValue>)> {
    let job_id = job.to_string();
    history.events.iter().map(move |event| {
        let body = Event {
            job_id: &job_id,
            seq: event.seq.into(),
            state: event.state.as_str(),
            previous_state: event.previous_state.map(|state| state.as_str()),
            timestamp: event.at,
            model: &history.model,
            attempt: event.attempt.into(),
            artifacts: &artifacts(app, &job_id, &event.artifacts),
            error: event.error.as_deref(),
            metadata: history.metadata.as_deref(),
        };
        let json = to_raw_value(&body).expect("strings, numbers and raw JSON always serialise");
        (event.seq, json)
    })
}

/// A page of a job's deliveries.
pub(crate) fn deliveries(page: &DeliveryPage) -> Vec<u8> {
    let data: Vec<_> = page.deliveries.iter().map(delivery).collect();
    let last_id = page.deliveries.last().map(|delivery| delivery.id.to_string());
    json(&Page { data, has_more: page.has_more, last_id })
}

fn show<'a>(app: &App, job: &'a JobView, prospect: &'a Prospect) -> Job<'a> {
    Job {
        job_id: job.id,
        state: job.state.as_str(),
        model: &job.model,
        user: job.user.named(),
        created_at: rfc3339(job.created_at),
        started_at: job.loading_at.map(rfc3339),
        completed_at: job.completed_at.map(rfc3339),
        attempt: job.attempt,
        seq: job.seq,
        result: None,
        error: job.error.as_deref(),
        error_code: job.error_code.as_deref(),
        artifacts: artifacts(app, &job.id.to_string(), &job.artifacts),
        position: prospect.position,
        eta: prospect.eta.map(rfc3339),
        waiting_for: prospect.waiting_for.as_deref(),
        context: job.context,
        usage: Usage { prompt_tokens: job.prompt_tokens, completion_tokens: job.completion_tokens },
        timing: Timing {
            wait_ms: between(Some(job.eligible_at), job.loading_at),
            load_ms: between(job.loading_at, job.working_at),
            run_ms: between(job.working_at, job.completed_at),
        },
        failures: job.failures,
        rescues: job.rescues,
        cancel_requested: job.cancel_requested,
        retry_of: job.retry_of,
        priority: job.priority,
        max_attempts: job.max_attempts,
        metadata: job.metadata.as_deref().and_then(raw),
        state_webhook_url: job.webhook_url.as_deref(),
        webhook_events: job.webhook_events.as_deref(),
        run_at: job.run_at.map(rfc3339),
        expires_at: rfc3339(job.expires_at),
    }
}

fn between(from: Option<DateTime<Utc>>, to: Option<DateTime<Utc>>) -> Option<i64> {
    Some((to? - from?).max(TimeDelta::zero()).num_milliseconds())
}

fn artifacts<'a>(app: &App, job_id: &str, views: &'a [ArtifactView]) -> Vec<Artifact<'a>> {
    let url = |name: &str| artifact_url(app.public_url.as_deref(), job_id, name);
    let show = |view: &'a ArtifactView| Artifact {
        name: &view.name,
        content_type: &view.content_type,
        size: view.size,
        sha256: &view.sha256,
        content: ArtifactContent::choose(view.data.as_deref(), || url(&view.name)),
    };
    views.iter().map(show).collect()
}

fn delivery(view: &DeliveryView) -> Delivery<'_> {
    let attempts = view.attempts.iter().map(|attempt| Attempt {
        attempt: attempt.attempt,
        at: rfc3339(attempt.at),
        status: attempt.status,
        error_code: attempt.error_code.as_deref(),
        latency_ms: attempt.latency_ms,
        response: attempt.response.as_deref().map(String::from_utf8_lossy),
    });
    Delivery {
        delivery_id: view.id.to_string(),
        seq: view.seq,
        r#type: format!("job.{}", view.event),
        url: &view.url,
        state: view.state.as_str(),
        next_attempt_at: view.next_attempt_at.map(rfc3339),
        held_until: view.held_until.map(rfc3339),
        attempts: attempts.collect(),
    }
}

pub(crate) fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("strings, numbers and raw JSON always serialise")
}
