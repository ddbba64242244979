//! `POST /jobs` and `GET /jobs`.

use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use foreman_ollama::ModelName;
use foreman_store::{Acceptance, IdempotencyKey, JobFilter, JobId, JobState, Receiver};
use foreman_webhook::guard::SUBMISSION_BUDGET;
use serde_json::json;
use tokio::time::Instant;

use super::job;
use crate::answer;
use crate::app::{App, Shared};
use crate::auth::Caller;
use crate::body::Bounded;
use crate::new_job::{NewJob, idempotency_key};
use crate::prefer::preferred_wait;
use crate::problem::Problem;
use crate::query::Parameters;
use crate::show;
use crate::submit::{Accepted, NotAccepted, Submission};
use crate::traceparent::traceparent;
use crate::watch::Until;

const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// Jobs on a page that names no number, and at most.
const PAGE: usize = 50;
const LARGEST_PAGE: usize = 500;

pub(super) async fn submit(
    caller: Caller,
    State(app): State<Shared>,
    headers: HeaderMap,
    body: Bounded,
) -> Result<Response, Problem> {
    let key = idempotency_key(&headers, &body.bytes)?;
    // Waiting is a preference: without a free seat the job is accepted all the same. The seat is taken first, so that
    // nothing is refused once it is.
    let wait = preferred_wait(&headers).and_then(|wait| Some((wait, app.watch.seat(caller.client).ok()?)));
    let accepted = match admit(&app, caller, &headers, body, key.clone()).await {
        Ok(submission) => app.submitter.submit(submission).await.map_err(not_accepted)?,
        Err(problem) => replay(&app, caller, key.as_ref(), problem).await?,
    };
    let (Accepted::New(id) | Accepted::Replayed(id)) = accepted;
    let finished = match wait {
        None => None,
        Some((wait, seat)) => {
            seat.wait(caller.client, id, Until::End, Instant::now() + wait).await;
            job::view(&app, caller, id).await?.filter(|job| job.state.is_terminal()).map(|job| (job, wait))
        }
    };
    let mut response = match finished {
        None => queued(&app, id),
        Some((job, wait)) => {
            let mut response = answer::json(StatusCode::OK, show::job(&app, &job));
            if let Ok(applied) = HeaderValue::from_str(&format!("wait={}", wait.as_secs())) {
                response.headers_mut().insert(PREFERENCE_APPLIED, applied);
            }
            response
        }
    };
    if matches!(accepted, Accepted::Replayed(_)) {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// Checks all that can be wrong with a job before it is offered to the queue.
async fn admit(
    app: &App,
    caller: Caller,
    headers: &HeaderMap,
    body: Bounded,
    idempotency: Option<IdempotencyKey>,
) -> Result<Submission, Problem> {
    let Bounded { bytes, held } = body;
    let job = NewJob::parse(&bytes, app.store.clock().now(), app.job_ttl)?;
    drop(bytes);
    if let Some(webhook) = &job.webhook {
        let checked = app.receivers.check(&webhook.url, Instant::now() + SUBMISSION_BUDGET).await;
        checked.map_err(|error| Problem::unprocessable(error.code(), error.to_string()))?;
    }
    let model = app.inventory.find(job.body.load_key.model()).await?;
    let admission = app.limits.admit(caller.client, job.body.payload.len()).await?;
    let new = foreman_store::NewJob {
        id: app.store.clock().next_job_id(),
        client: caller.client,
        model: job.body.model,
        model_label: model.label,
        load_key: job.body.load_key.as_str().to_owned(),
        path: job.body.route.path().to_owned(),
        body: job.body.payload,
        priority: job.priority,
        max_attempts: job.max_attempts,
        metadata: job.metadata,
        receiver: job.webhook.map(|webhook| Receiver {
            url: webhook.url.as_str().to_owned(),
            origin: webhook.url.origin(),
            events: webhook.events,
        }),
        run_at: job.times.run_at,
        expires_at: job.times.expires_at,
        retry_of: None,
        traceparent: traceparent(headers),
        idempotency,
    };
    Ok(Submission { job: new, admission, held })
}

/// A job that was accepted once under this key stays accepted, even where it would be refused now: the client's queue
/// may be full by now, or its `expires_at` past.
async fn replay(
    app: &App,
    caller: Caller,
    key: Option<&IdempotencyKey>,
    problem: Problem,
) -> Result<Accepted, Problem> {
    let Some(key) = key else { return Err(problem) };
    match app.store.key_holder(caller.client, key).await {
        Ok(Some(Acceptance::Replayed(job))) => Ok(Accepted::Replayed(job)),
        _ => Err(problem),
    }
}

/// 202, for a job that is in the queue.
pub(super) fn queued(app: &App, job: JobId) -> Response {
    let mut response = answer::json(StatusCode::ACCEPTED, show::json(&json!({ "job_id": job })));
    if let Ok(location) = HeaderValue::from_str(&app.url(&format!("/jobs/{job}"))) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

pub(super) fn not_accepted(reason: NotAccepted) -> Problem {
    match reason {
        NotAccepted::KeyReused => Problem::unprocessable(
            "idempotency_key_reused",
            "this Idempotency-Key was used with another body; send a new key with a new job",
        ),
        NotAccepted::Refused => {
            Problem::bad_request("not_storable", "the job holds a value that cannot be stored; simplify it")
        }
        NotAccepted::Unavailable => Problem::unavailable(
            "not_accepted",
            "the job was not accepted, because the database did not take it; try again in a moment",
        ),
        NotAccepted::Unknown => Problem::unavailable(
            "acceptance_unknown",
            "the database went away while it took the job; send it again with the same Idempotency-Key to be sure",
        )
        .retry_after(Duration::from_secs(5)),
    }
}

pub(super) async fn list(
    caller: Caller,
    State(app): State<Shared>,
    parameters: Parameters,
) -> Result<Response, Problem> {
    let states = JobState::ALL.map(JobState::as_str).join(", ");
    let model: Option<ModelName> = parameters.read("model", "the name of a model")?;
    let filter = JobFilter {
        state: parameters.read("state", format_args!("one of {states}"))?,
        model: model.map(|model| model.as_str().to_owned()),
        after: parameters.read("after", "the `last_id` of the page before")?,
    };
    let limit = parameters
        .read_if("limit", format_args!("a whole number from 1 to {LARGEST_PAGE}"), |limit| {
            (1..=LARGEST_PAGE).contains(limit)
        })?
        .unwrap_or(PAGE);
    let page = app.store.jobs(caller.scope(), &filter, limit).await?;
    Ok(answer::json(StatusCode::OK, show::jobs(&app, &page.jobs, page.next)))
}
