//! `POST /jobs` and `GET /jobs`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use foreman_ollama::ModelName;
use foreman_store::{JobFilter, JobState};
use tokio::time::Instant;

use super::{job, show};
use crate::access::auth::Caller;
use crate::app::Shared;
use crate::describe::schema;
use crate::http::body::{self, Bounded};
use crate::http::observe;
use crate::http::outgoing;
use crate::http::prefer::preferred_wait;
use crate::http::query::Parameters;
use crate::intake::Intake;
use crate::refusal::Refusal;
use crate::watch::Until;

const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// Submits a job.
///
/// The body is what `/api/chat` takes, or `/api/generate` where it has `prompt`, with fields of Foreman's own beside it.
/// Foreman removes these fields and `keep_alive`, and sets `stream`. The rest reaches Ollama byte for byte.
#[utoipa::path(
    post,
    path = "/jobs",
    tag = "jobs",
    params(
        ("Idempotency-Key" = Option<String>, Header, max_length = 255, description = "For 24 hours, the same key with the same bytes gives the same job."),
        ("X-Foreman-User" = Option<String>, Header, description = "For which of its users the client asks, in at most 128 bytes. `X-OpenWebUI-User-Id` counts where this is missing or empty."),
        ("Prefer" = Option<String>, Header, description = "`wait=N` waits up to N seconds, at most 60, for the job's end.", example = "wait=30"),
        ("traceparent" = Option<String>, Header, description = "W3C Trace Context; passed on to webhooks."),
    ),
    request_body(content = schema::NewJob, content_type = "application/json", description = "One job. The content type is not checked."),
    responses(
        (status = 200, description = "The job's end came within the wait that was preferred; it may have failed.", body = show::Job,
            headers(("Preference-Applied" = String, description = "The wait."), ("Idempotency-Replayed" = String, description = "`true` for a job that was there before."))),
        (status = 202, description = "The job is in the queue, for good.", body = schema::JobRef,
            headers(("Location" = String, description = "The job's URL."), ("Idempotency-Replayed" = String, description = "`true` for a job that was there before."))),
        (status = 400, description = "`body_missing`, `not_utf8`, `not_json`, `not_an_object`, `trailing_data`, `too_deep`, `too_many_keys`, `repeated_key`, `key_in_other_case`, `model_missing`, `invalid_model`, `model_only_embeds`, `nothing_to_run`, `two_things_to_run`, `invalid_messages`, `invalid_prompt`, `invalid_stream`, `invalid_options`, `invalid_priority`, `invalid_max_attempts`, `invalid_metadata`, `invalid_run_at`, `invalid_expires_at`, `invalid_webhook_url`, `invalid_webhook_events`, `webhook_url_missing`, `invalid_idempotency_key`, `invalid_user`, `not_storable`"),
        (status = 404, description = "`unknown_model`"),
        (status = 422, description = "`idempotency_key_reused`, and URLs that may not be called, each with a code of its own"),
        (status = 429, description = "`queue_full`"),
        (status = 503, description = "`no_inventory`, `not_accepted`, `acceptance_unknown`"),
    ),
)]
pub(crate) async fn submit(
    caller: Caller,
    State(app): State<Shared>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let Bounded { bytes, held } = body::read(&app, caller.client, body).await?;
    // Waiting is only a preference: without a permit to wait, the job is accepted without a wait. The permit is taken first, so
    // that nothing can refuse the request after the job is accepted.
    let wait = preferred_wait(&headers).and_then(|wait| Some((wait, app.watch.permit(caller.client).ok()?)));
    let accepted = Intake::new(Shared::clone(&app), caller, headers)?
        .take_in(bytes, Arc::new(held))
        .await?
        .accepted()
        .await?;
    let id = accepted.job();
    observe::is_about(id);
    let finished = match wait {
        None => None,
        Some((wait, permit)) => {
            permit.wait(caller.client, id, Until::End, Instant::now() + wait).await;
            job::finished(&app, caller, id).await.map(|response| (response, wait))
        }
    };
    let mut response = match finished {
        None => job::queued(&app, id),
        Some((mut response, wait)) => {
            if let Ok(applied) = HeaderValue::from_str(&format!("wait={}", wait.as_secs())) {
                response.headers_mut().insert(PREFERENCE_APPLIED, applied);
            }
            response
        }
    };
    job::tell_replayed(&mut response, &accepted);
    Ok(response)
}

/// Lists jobs, newest first.
#[utoipa::path(
    get,
    path = "/jobs",
    tag = "jobs",
    params(
        ("state" = Option<schema::State>, Query, description = "Only jobs in this state."),
        ("model" = Option<String>, Query, description = "Only jobs of this model, in any of its spellings."),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 500, description = "Jobs on the page; 50 if missing."),
        ("after" = Option<String>, Query, description = "The `last_id` of the page before."),
    ),
    responses(
        (status = 200, description = "A page; jobs without `result`, artifacts without `data`.", body = show::Page<show::Job>),
        (status = 429, description = "`too_many_reads`, `too_much_unread`"),
        (status = 503, description = "`busy`"),
    ),
)]
pub(crate) async fn list(
    caller: Caller,
    State(app): State<Shared>,
    parameters: Parameters,
) -> Result<Response, Refusal> {
    let states = JobState::ALL.map(JobState::as_str).join(", ");
    let model: Option<ModelName> = parameters.read("model", "the name of a model")?;
    let filter = JobFilter {
        state: parameters.read("state", format_args!("one of {states}"))?,
        model: model.map(|model| model.as_str().to_owned()),
        after: parameters.read("after", "the `last_id` of the page before")?,
    };
    let limit = parameters.page_size()?;
    let _permit = app.reads.page_permit(caller.client).await?;
    let page = app.store.jobs(caller.scope(), &filter, limit).await?;
    let prospects = app.prospects(&page.jobs).await;
    outgoing::json(&app, caller.client, StatusCode::OK, show::jobs(&app, &page.jobs, &prospects, page.next))
}
