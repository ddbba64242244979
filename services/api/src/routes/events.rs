//! `GET /jobs/{id}/events`.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use crate::answer;
use crate::app::Shared;
use crate::auth::Caller;
use crate::path::JobPath;
use crate::problem::Problem;
use crate::show;

pub(super) async fn list(
    caller: Caller,
    JobPath(id): JobPath,
    State(app): State<Shared>,
) -> Result<Response, Problem> {
    let inline_limit = i64::try_from(app.inline_limit).unwrap_or(i64::MAX);
    let history = app.store.job_history(caller.scope(), id, inline_limit).await?;
    let history = history.ok_or_else(Problem::no_such_job)?;
    Ok(answer::json(StatusCode::OK, show::history(&app, id, &history)))
}
