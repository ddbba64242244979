//! The table of routes. A handler reads like its line in the contract: parse, one call of the store, reply.

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::middleware::from_fn;
use axum::routing::{get, post};

use crate::app::App;
use crate::observe::observe;
use crate::problem::Problem;

mod artifacts;
mod batch;
mod deliveries;
mod events;
mod job;
mod jobs;

/// What stands where Ollama would stand, for those who only ask whether it is there.
const RUNNING: &str = "Ollama is running";

pub(crate) fn table(app: Arc<App>) -> Router {
    Router::new()
        .route("/", get(RUNNING))
        .route("/jobs", get(jobs::list).post(jobs::submit))
        .route("/jobs/batch", post(batch::submit))
        .route("/jobs/{id}", get(job::show))
        .route("/jobs/{id}/cancel", post(job::cancel))
        .route("/jobs/{id}/retry", post(job::retry))
        .route("/jobs/{id}/events", get(events::show))
        .route("/jobs/{id}/artifacts/{name}", get(artifacts::show))
        .route("/jobs/{id}/deliveries", get(deliveries::list))
        .route("/deliveries/{id}/redeliver", post(deliveries::redeliver))
        .fallback(async || no_such_route())
        .method_not_allowed_fallback(async || wrong_method())
        .layer(from_fn(observe))
        .with_state(app)
}

fn no_such_route() -> Problem {
    let error = "there is no such route; jobs are submitted with POST /jobs";
    Problem::new(StatusCode::NOT_FOUND, "no_such_route", error)
}

fn wrong_method() -> Problem {
    let error = "this route has no such method; the Allow header lists those it has";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", error)
}
