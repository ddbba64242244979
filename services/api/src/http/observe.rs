//! Runs around every request: gives it an id, counts and times it, opens its span, logs its answer, adds the `Server` header,
//! and answers even when a handler panics.
//!
//! Must never log more of a request than its method, its route, its id and the id of its job.

use std::panic::AssertUnwindSafe;

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use foreman_runtime::metrics::Metric;
use foreman_store::JobId;
use futures_util::FutureExt;
use metrics::{counter, histogram};
use tokio::time::Instant;
use tracing::field::{Empty, display};
use tracing::{Instrument, Span};
use ulid::Ulid;

use crate::refusal::Refusal;

pub(crate) const REQUESTS: Metric =
    Metric::labelled_counter("foreman_http_requests_total", "Requests answered, by route and status.");
pub(crate) const REQUEST_SECONDS: Metric = Metric::histogram(
    "foreman_http_request_seconds",
    "From a request's head to its answer's, by route; waiting asked for included.",
);

/// The id of a request, as our log has it. Every answer carries it. We take none from outside, because a client could fill our
/// log with it.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Names the server that answers. A worker whose OLLAMA_HOST leads to an api notices this header, and refuses to use Foreman as
/// its own Ollama.
const SERVER: HeaderValue = HeaderValue::from_static(concat!("foreman/", env!("CARGO_PKG_VERSION")));

/// The label for all paths without a route. A client must not be able to create labels.
const NO_ROUTE: &str = "none";

pub(crate) async fn observe(request: Request, next: Next) -> Response {
    let began = Instant::now();
    let route = request.extensions().get::<MatchedPath>().map_or(NO_ROUTE, MatchedPath::as_str).to_owned();
    let id = format!("req_{}", Ulid::generate());
    // The span has the level of an error, so that every FOREMAN_LOG that shows a line shows its span too.
    let span = tracing::error_span!(
        "request",
        request.id = id,
        method = request.method().as_str(),
        route,
        job.id = Empty
    );
    // The panic hook has logged the panic. The connection and the other requests go on.
    let mut response = AssertUnwindSafe(next.run(request))
        .catch_unwind()
        .instrument(span.clone())
        .await
        .unwrap_or_else(|_| Refusal::internal().into_response());
    let headers = response.headers_mut();
    headers.insert(header::SERVER, SERVER);
    headers.insert(REQUEST_ID, HeaderValue::try_from(id).expect("a ULID is a header's value"));
    let (status, elapsed) = (response.status(), began.elapsed());
    tracing::debug!(parent: &span, status = status.as_u16(), ms = elapsed.as_millis(), "answered");
    histogram!(REQUEST_SECONDS.name, "route" => route.clone()).record(elapsed.as_secs_f64());
    counter!(REQUESTS.name, "route" => route, "status" => status.as_str().to_owned()).increment(1);
    response
}

/// Adds the job to the span of the current request, so that every later line of its log names the job.
pub(crate) fn is_about(job: JobId) {
    Span::current().record("job.id", display(job));
}
