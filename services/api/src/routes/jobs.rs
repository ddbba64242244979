//! `POST /jobs` and `GET /jobs`.

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use foreman_ollama::ModelName;
use foreman_store::{JobFilter, JobId, JobState};
use serde_json::json;
use tokio::time::Instant;

use super::job;
use crate::answer;
use crate::app::{App, Shared};
use crate::auth::Caller;
use crate::body::Bounded;
use crate::intake::Intake;
use crate::prefer::preferred_wait;
use crate::problem::Problem;
use crate::query::Parameters;
use crate::show;
use crate::submit::Accepted;
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
    // Waiting is a preference: without a free seat the job is accepted all the same. The seat is taken first, so that
    // nothing is refused once it is.
    let wait = preferred_wait(&headers).and_then(|wait| Some((wait, app.watch.seat(caller.client).ok()?)));
    let accepted = Intake::new(Shared::clone(&app), caller, headers)
        .take_in(body.bytes, body.held)
        .await?
        .answer()
        .await?;
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

/// 202, for a job that is in the queue.
pub(super) fn queued(app: &App, job: JobId) -> Response {
    let mut response = answer::json(StatusCode::ACCEPTED, show::json(&json!({ "job_id": job })));
    if let Ok(location) = HeaderValue::from_str(&app.url(&format!("/jobs/{job}"))) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
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
