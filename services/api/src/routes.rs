//! The table of routes. A handler reads like its line in the contract: parse, one call of the store, reply.

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::middleware::from_fn;
use axum::routing::MethodRouter;

use crate::app::{App, Shared};
use crate::framing;
use crate::observe::observe;
use crate::problem::Problem;
use crate::refusal::Refusal;

pub(crate) mod artifacts;
pub(crate) mod batch;
mod caller;
pub(crate) mod deliveries;
pub(crate) mod docs;
pub(crate) mod events;
pub(crate) mod job;
pub(crate) mod jobs;
pub(crate) mod queue;

/// Makes the routes, and the list of them that the description is held against.
macro_rules! routes {
    ($($path:literal => $($method:ident($handler:path)).+,)+) => {
        #[cfg(test)]
        pub(crate) const ROUTES: &[(&str, &[&str])] = &[$(($path, &[$(stringify!($method)),+])),+];

        fn routes() -> Router<Shared> {
            Router::new()$(.route($path, MethodRouter::new()$(.$method($handler))+))+
        }
    };
}

routes! {
    "/" => get(docs::root),
    "/openapi.json" => get(docs::openapi),
    "/docs" => get(docs::page),
    "/jobs" => get(jobs::list).post(jobs::submit),
    "/jobs/batch" => post(batch::submit),
    "/jobs/{id}" => get(job::show),
    "/jobs/{id}/cancel" => post(job::cancel),
    "/jobs/{id}/retry" => post(job::retry),
    "/jobs/{id}/events" => get(events::show),
    "/jobs/{id}/artifacts/{name}" => get(artifacts::show),
    "/jobs/{id}/deliveries" => get(deliveries::list),
    "/queue" => get(queue::show),
    "/deliveries/{id}/redeliver" => post(deliveries::redeliver),
}

pub(crate) fn table(app: Arc<App>) -> Router {
    routes()
        .fallback(async || no_such_route())
        .method_not_allowed_fallback(async || wrong_method())
        .layer(from_fn(framing::check))
        .layer(from_fn(observe))
        .with_state(app)
}

fn no_such_route() -> Problem {
    let error = "there is no such route; jobs are submitted with POST /jobs";
    Refusal::new(StatusCode::NOT_FOUND, "no_such_route", error).into()
}

fn wrong_method() -> Problem {
    let error = "this route has no such method; the Allow header lists those it has";
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", error).into()
}
