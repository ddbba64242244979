//! What operators ask a process: `/metrics`, `/healthz`, `/readyz`. Never any client's data.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::future::BoxFuture;
use serde::Serialize;
use tokio::time::timeout;

use crate::http::Limits;
use crate::metrics::Metrics;
use crate::shutdown::Shutdown;

/// Probes and scrapers are few; whoever opens more only waits.
pub(crate) const LIMITS: Limits = Limits { connections: 64, head: Duration::from_secs(15) };

/// A probe that gets no answer in time says less than one that says so.
const READY_WITHIN: Duration = Duration::from_secs(4);

/// One condition of being ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    #[serde(rename = "check")]
    name: &'static str,
    /// One sentence with the mend; None where all is well.
    #[serde(rename = "error")]
    problem: Option<String>,
}

impl Check {
    pub fn new(name: &'static str, result: Result<(), String>) -> Self {
        Self { name, problem: result.err() }
    }
}

/// Looks at every condition of being ready, at each call.
pub type Readiness = Arc<dyn Fn() -> BoxFuture<'static, Vec<Check>> + Send + Sync>;

/// Wraps an async closure that returns the checks.
pub fn readiness<F, R>(checks: F) -> Readiness
where
    F: Fn() -> R + Send + Sync + 'static,
    R: Future<Output = Vec<Check>> + Send + 'static,
{
    Arc::new(move || Box::pin(checks()))
}

pub(crate) fn router(metrics: Metrics, readiness: Readiness, shutdown: Shutdown) -> Router {
    Router::new()
        .route("/metrics", get(async move || prometheus(&metrics)))
        .route("/healthz", get("ok\n"))
        .route("/readyz", get(async move || ready(&readiness, &shutdown).await))
}

fn prometheus(metrics: &Metrics) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics.render()).into_response()
}

#[derive(Serialize)]
struct Answer {
    ready: bool,
    failing: Vec<Check>,
}

async fn ready(readiness: &Readiness, shutdown: &Shutdown) -> Response {
    let checks = if shutdown.soft().is_cancelled() {
        vec![Check::new("running", Err("the process is stopping; use another one".to_owned()))]
    } else {
        timeout(READY_WITHIN, readiness()).await.unwrap_or_else(|_| {
            let problem =
                format!("the checks took longer than {} s; look for what hangs", READY_WITHIN.as_secs());
            vec![Check::new("checks", Err(problem))]
        })
    };
    let failing: Vec<_> = checks.into_iter().filter(|check| check.problem.is_some()).collect();
    let status = if failing.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = serde_json::to_string(&Answer { ready: failing.is_empty(), failing })
        .expect("names and sentences always serialise");
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}
