//! Jobs and deliveries as clients read them. Every field is always there; what has no value is `null`.

use std::borrow::Cow;

use chrono::{DateTime, TimeDelta, Utc};
use foreman_store::{ArtifactView, DeliveryView, JobHistory, JobId, JobView};
use foreman_webhook::event::artifact_url;
use foreman_webhook::{Artifact, ArtifactContent, Event, rfc3339};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::app::App;

/// The artifact that is also shown as `result`.
const COMPLETION: &str = "completion";

#[derive(Serialize)]
struct Job<'a> {
    job_id: JobId,
    state: &'static str,
    model: &'a str,
    created_at: String,
    started_at: Option<String>,
    completed_at: Option<String>,
    attempt: i32,
    seq: i32,
    /// Left out of lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<Option<&'a RawValue>>,
    error: Option<&'a str>,
    error_code: Option<&'a str>,
    artifacts: Vec<Artifact<'a>>,
    /// How many jobs go before it, and when its turn is expected: the scheduler's to know.
    position: Option<u64>,
    eta: Option<String>,
    usage: Usage,
    timing: Timing,
    failures: i16,
    rescues: i16,
    cancel_requested: bool,
    retry_of: Option<JobId>,
    priority: i16,
    max_attempts: Option<i16>,
    metadata: Option<&'a RawValue>,
    state_webhook_url: Option<&'a str>,
    webhook_events: Option<&'a [String]>,
    run_at: Option<String>,
    expires_at: String,
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: Option<i64>,
    completion_tokens: Option<i64>,
}

/// Of the last attempt; what it has not come to yet is unknown.
#[derive(Serialize)]
struct Timing {
    wait_ms: Option<i64>,
    load_ms: Option<i64>,
    run_ms: Option<i64>,
}

#[derive(Serialize)]
struct Page<T> {
    data: Vec<T>,
    has_more: bool,
    last_id: Option<JobId>,
}

#[derive(Serialize)]
struct Delivery<'a> {
    delivery_id: String,
    seq: i32,
    r#type: String,
    url: &'a str,
    state: &'static str,
    next_attempt_at: Option<String>,
    attempts: Vec<Attempt<'a>>,
}

#[derive(Serialize)]
struct Attempt<'a> {
    attempt: i16,
    at: String,
    status: Option<i16>,
    error_code: Option<&'a str>,
    latency_ms: Option<i32>,
    response: Option<Cow<'a, str>>,
}

/// One job in full.
pub(crate) fn job(app: &App, job: &JobView) -> Vec<u8> {
    let digests = Digests::of(&job.artifacts);
    json(&Job { result: Some(completion(&job.artifacts)), ..show(app, job, &digests) })
}

/// A page of jobs; `next` is where the one after it begins.
pub(crate) fn jobs(app: &App, jobs: &[JobView], next: Option<JobId>) -> Vec<u8> {
    let digests: Vec<Digests> = jobs.iter().map(|job| Digests::of(&job.artifacts)).collect();
    let data: Vec<_> = jobs.iter().zip(&digests).map(|(job, digests)| show(app, job, digests)).collect();
    let last_id = next.or_else(|| jobs.last().map(|job| job.id));
    json(&Page { data, has_more: next.is_some(), last_id })
}

/// The history of a job, each entry as the webhook's body.
pub(crate) fn history(app: &App, job: JobId, history: &JobHistory) -> Vec<u8> {
    #[derive(Serialize)]
    struct Events {
        data: Vec<Box<RawValue>>,
        has_more: bool,
        last_id: Option<String>,
    }
    let (seqs, data): (Vec<i32>, Vec<_>) = events(app, job, history).unzip();
    let last_id = seqs.last().map(|seq| foreman_webhook::sign::message_id(&job.to_string(), (*seq).into()));
    json(&Events { data, has_more: false, last_id })
}

/// Each event of a history as the webhook's body, with its `seq`.
pub(crate) fn events(
    app: &App,
    job: JobId,
    history: &JobHistory,
) -> impl Iterator<Item = (i32, Box<RawValue>)> {
    let job_id = job.to_string();
    history.events.iter().map(move |event| {
        let digests = Digests::of(&event.artifacts);
        let body = Event {
            job_id: &job_id,
            seq: event.seq.into(),
            state: event.state.as_str(),
            previous_state: event.previous_state.map(|state| state.as_str()),
            timestamp: event.at,
            model: &history.model,
            attempt: event.attempt.into(),
            result: completion(&event.artifacts),
            artifacts: &artifacts(app, job, &event.artifacts, &digests),
            error: event.error.as_deref(),
            metadata: history.metadata.as_deref().and_then(raw),
        };
        let json = to_raw_value(&body).expect("strings, numbers and raw JSON always serialise");
        (event.seq, json)
    })
}

/// The deliveries of a job.
pub(crate) fn deliveries(deliveries: &[DeliveryView]) -> Vec<u8> {
    #[derive(Serialize)]
    struct Deliveries<'a> {
        data: Vec<Delivery<'a>>,
        has_more: bool,
        last_id: Option<String>,
    }
    let data: Vec<_> = deliveries.iter().map(delivery).collect();
    let last_id = deliveries.last().map(|delivery| delivery.id.to_string());
    json(&Deliveries { data, has_more: false, last_id })
}

fn show<'a>(app: &App, job: &'a JobView, digests: &'a Digests) -> Job<'a> {
    Job {
        job_id: job.id,
        state: job.state.as_str(),
        model: &job.model,
        created_at: rfc3339(job.created_at),
        started_at: job.loading_at.map(rfc3339),
        completed_at: job.completed_at.map(rfc3339),
        attempt: job.attempt,
        seq: job.seq,
        result: None,
        error: job.error.as_deref(),
        error_code: job.error_code.as_deref(),
        artifacts: artifacts(app, job.id, &job.artifacts, digests),
        position: None,
        eta: None,
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

/// Digests of artifacts as they are written.
struct Digests(Vec<String>);

impl Digests {
    fn of(artifacts: &[ArtifactView]) -> Self {
        Self(artifacts.iter().map(|artifact| hex::encode(&artifact.sha256)).collect())
    }
}

fn artifacts<'a>(
    app: &App,
    job: JobId,
    views: &'a [ArtifactView],
    digests: &'a Digests,
) -> Vec<Artifact<'a>> {
    let show = |(view, sha256): (&'a ArtifactView, &'a String)| {
        let url = || artifact_url(app.public_url.as_deref(), &job.to_string(), &view.name);
        Artifact {
            name: &view.name,
            content_type: &view.content_type,
            size: view.size,
            sha256,
            content: match &view.data {
                Some(data) => ArtifactContent::choose(data, app.inline_limit, url),
                None => ArtifactContent::Url(url()),
            },
        }
    };
    views.iter().zip(&digests.0).map(show).collect()
}

/// What Ollama would have answered unstreamed, where it came along.
fn completion(artifacts: &[ArtifactView]) -> Option<&RawValue> {
    let completion = artifacts.iter().find(|artifact| artifact.name == COMPLETION)?;
    raw(std::str::from_utf8(completion.data.as_deref()?).ok()?)
}

fn raw(json: &str) -> Option<&RawValue> {
    serde_json::from_str(json).ok()
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
        attempts: attempts.collect(),
    }
}

pub(crate) fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("strings, numbers and raw JSON always serialise")
}
