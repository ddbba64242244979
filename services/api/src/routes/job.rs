//! `GET /jobs/{id}`, `POST /jobs/{id}/cancel`, `POST /jobs/{id}/retry`.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use foreman_store::{Cancelling, JobId, JobState, JobView, Progress, StoreError};
use serde_json::json;
use tokio::time::Instant;

use super::show;
use crate::access::auth::Caller;
use crate::app::{App, Shared};
use crate::describe::schema;
use crate::forecasts::Prospect;
use crate::http::outgoing;
use crate::http::path::JobPath;
use crate::http::prefer::MAX_WAIT;
use crate::http::query::Parameters;
use crate::intake::Intake;
use crate::intake::submit::Accepted;
use crate::refusal::Refusal;
use crate::watch::Until;

const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// A job that the caller may see, with its artifacts up to the inline limit.
pub(super) async fn view(app: &App, caller: Caller, id: JobId) -> Result<Option<JobView>, StoreError> {
    let inline_limit = i64::try_from(app.inline_limit).unwrap_or(i64::MAX);
    app.store.job(caller.scope(), id, inline_limit).await
}

/// The answer that shows a finished job. `None` if the job has not finished, or cannot be shown now: then the client that has
/// just submitted it must still learn that it is accepted.
pub(super) async fn finished(app: &App, caller: Caller, id: JobId) -> Option<Response> {
    let _permit = app.reads.permit(caller.client).await.ok()?;
    let job = view(app, caller, id).await.map_err(Refusal::from).ok()??;
    let is_finished = job.state.is_terminal();
    is_finished.then(|| {
        outgoing::json(app, caller.client, StatusCode::OK, show::job(app, &job, &Prospect::default())).ok()
    })?
}

/// 202: the job is in the queue.
pub(crate) fn queued(app: &App, job: JobId) -> Response {
    let mut response = outgoing::small_json(StatusCode::ACCEPTED, show::json(&json!({ "job_id": job })));
    if let Ok(location) = HeaderValue::from_str(&app.url(&format!("/jobs/{job}"))) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// Says whether the job was there before, under the same idempotency key.
pub(super) fn tell_replayed(response: &mut Response, accepted: &Accepted) {
    if matches!(accepted, Accepted::Replayed(_)) {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
}

/// Shows a job, at once or after a wait.
#[utoipa::path(
    get,
    path = "/jobs/{id}",
    tag = "jobs",
    params(
        ("id" = String, Path, description = "The job's ULID."),
        ("wait" = Option<u64>, Query, description = "Seconds to wait for the job's end, at most 60."),
        ("after_seq" = Option<i32>, Query, minimum = 0, description = "With `wait`: wait for a transition after this one instead."),
        ("If-None-Match" = Option<String>, Header, description = "The `ETag` of what the client has."),
    ),
    responses(
        (status = 200, description = "The job as it stands.", body = show::Job, headers(("ETag" = String, description = "Of these bytes."))),
        (status = 304, description = "The client has it already."),
        (status = 404, description = "`no_such_job`: not there, or another client's"),
        (status = 429, description = "`too_many_waiting`, `too_many_reads`, `too_much_unread`"),
        (status = 503, description = "`too_many_waiting`, `busy`"),
    ),
)]
pub(crate) async fn show(
    caller: Caller,
    JobPath(id): JobPath,
    State(app): State<Shared>,
    parameters: Parameters,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let seconds: Option<u64> = parameters.read("wait", "a whole number of seconds")?;
    let wait = Duration::from_secs(seconds.unwrap_or(0)).min(MAX_WAIT);
    let expected = "the `seq` of the last transition that you know";
    let until = match parameters.read_if("after_seq", expected, |seq: &i32| *seq >= 0)? {
        Some(seq) => Until::After(seq),
        None => Until::End,
    };
    let mut permit = app.reads.permit(caller.client).await?;
    let mut job = view(&app, caller, id).await?.ok_or_else(Refusal::no_such_job)?;
    if !wait.is_zero() && !until.is_reached(progress(&job)) {
        drop(permit);
        let wait_permit = app.watch.permit(caller.client)?;
        wait_permit.wait(job.client, id, until, Instant::now() + wait).await;
        permit = app.reads.permit(caller.client).await?;
        job = view(&app, caller, id).await?.ok_or_else(Refusal::no_such_job)?;
    }
    drop(permit);
    let prospect = app.prospect(&job).await;
    outgoing::json_unless_known(&app, caller.client, &headers, show::job(&app, &job, &prospect))
}

fn progress(job: &JobView) -> Progress {
    let is_held = matches!(job.state, JobState::Loading | JobState::Working);
    Progress { job: job.id, seq: job.seq, is_held, has_ended: job.state.is_terminal() }
}

/// Cancels a job, in whatever state it is.
///
/// A job that a worker holds shows `cancel_requested` and ends within a second, unless it succeeds first. A job that has ended
/// is shown unchanged.
#[utoipa::path(
    post,
    path = "/jobs/{id}/cancel",
    tag = "jobs",
    params(("id" = String, Path, description = "The job's ULID.")),
    responses(
        (status = 200, description = "The job as it stands now.", body = show::Job),
        (status = 404, description = "`no_such_job`"),
        (status = 429, description = "`too_many_reads`, `too_much_unread`"),
        (status = 503, description = "`busy`"),
    ),
)]
pub(crate) async fn cancel(
    caller: Caller,
    JobPath(id): JobPath,
    State(app): State<Shared>,
) -> Result<Response, Refusal> {
    let _permit = app.reads.permit(caller.client).await?;
    let owner = view(&app, caller, id).await?.ok_or_else(Refusal::no_such_job)?.client;
    if app.store.cancel(owner, id).await? == Cancelling::Missing {
        return Err(Refusal::no_such_job());
    }
    let job = view(&app, caller, id).await?.ok_or_else(Refusal::no_such_job)?;
    let prospect = app.prospect(&job).await;
    outgoing::json(&app, caller.client, StatusCode::OK, show::job(&app, &job, &prospect))
}

/// Submits the request of an ended job again, as a new job.
#[utoipa::path(
    post,
    path = "/jobs/{id}/retry",
    tag = "jobs",
    params(("id" = String, Path, description = "The job's ULID.")),
    responses(
        (status = 202, description = "The new job, with `retry_of`, for the same user.", body = schema::JobRef, headers(("Location" = String, description = "The new job's URL."))),
        (status = 400, description = "`invalid_user`"),
        (status = 404, description = "`no_such_job`"),
        (status = 409, description = "`job_is_live`"),
        (status = 429, description = "`queue_full`, `too_much_under_way`, `too_many_reads`"),
        (status = 503, description = "`not_accepted`, `acceptance_unknown`, `busy`"),
    ),
)]
pub(crate) async fn retry(
    caller: Caller,
    JobPath(id): JobPath,
    State(app): State<Shared>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let permit = app.reads.permit(caller.client).await?;
    let size = app.store.request_size(caller.scope(), id).await?.ok_or_else(Refusal::no_such_job)?;
    drop(permit);
    if !size.has_ended {
        let error = "the job has not ended yet; cancel it first, or wait for its end";
        return Err(Refusal::conflict("job_is_live", error));
    }
    // Take the memory before the body is read, and take it twice: during the read, the connection's buffer has the body too.
    let bytes = usize::try_from(size.bytes).unwrap_or(usize::MAX);
    let held = Arc::new(app.incoming.take(caller.client, bytes.saturating_mul(2))?);
    let permit = app.reads.permit(caller.client).await?;
    let request =
        app.store.request(caller.scope(), id, size.bytes).await?.ok_or_else(Refusal::no_such_job)?;
    drop(permit);
    let taken = Intake::new(Shared::clone(&app), caller, headers)?.take_in_again(id, request, held).await?;
    let id = taken.accepted().await?.job();
    Ok(queued(&app, id))
}
