//! Around every request: its metrics, its line in the log, who answers, and an answer even where a handler panics.

use std::panic::AssertUnwindSafe;

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use foreman_runtime::metrics::Metric;
use futures_util::FutureExt;
use metrics::{counter, histogram};
use tokio::time::Instant;

use crate::http::problem::Problem;
use crate::refusal::Refusal;

pub(crate) const REQUESTS: Metric =
    Metric::labelled_counter("foreman_http_requests_total", "Requests answered, by route and status.");
pub(crate) const REQUEST_SECONDS: Metric = Metric::histogram(
    "foreman_http_request_seconds",
    "From a request's head to its answer's, by route; waiting asked for included.",
);

/// Says who answers. A worker whose OLLAMA_HOST leads to an api knows it by this, and refuses to run on itself.
const SERVER: HeaderValue = HeaderValue::from_static(concat!("foreman/", env!("CARGO_PKG_VERSION")));

/// The label of every path that no route has: clients must not be able to invent labels.
const NO_ROUTE: &str = "none";

pub(crate) async fn observe(request: Request, next: Next) -> Response {
    let began = Instant::now();
    let path = request.extensions().get::<MatchedPath>().cloned();
    let method = request.method().clone();
    let route = path.as_ref().map_or(NO_ROUTE, MatchedPath::as_str).to_owned();
    // The hook has logged the panic; the connection and the other requests go on.
    let mut response = AssertUnwindSafe(next.run(request))
        .catch_unwind()
        .await
        .unwrap_or_else(|_| Problem::from(Refusal::internal()).into_response());
    response.headers_mut().insert(header::SERVER, SERVER);
    let (status, elapsed) = (response.status(), began.elapsed());
    tracing::debug!(%method, route, status = status.as_u16(), ms = elapsed.as_millis(), "answered");
    histogram!(REQUEST_SECONDS.name, "route" => route.clone()).record(elapsed.as_secs_f64());
    counter!(REQUESTS.name, "route" => route, "status" => status.as_str().to_owned()).increment(1);
    response
}
