//! The routes for operators: `/metrics`, `/healthz`, `/readyz`. Must never show a client's data.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::future::BoxFuture;
use serde::Serialize;
use tokio::time::{sleep, timeout};

use crate::http::Limits;
use crate::metrics::Metrics;
use crate::shutdown::Shutdown;
use crate::stalls;

/// Probes and scrapers need few connections. If somebody opens more, the server closes those that have been idle longest, so
/// that it can still answer a probe.
pub(crate) const LIMITS: Limits = Limits {
    connections: 64,
    head: Duration::from_secs(10),
    idle: Duration::from_secs(15),
    stalled: Duration::from_secs(30),
};

/// After this long the answer says that the checks hang. A probe that times out without an answer would say less.
const READY_WITHIN: Duration = Duration::from_secs(4);

/// The wait between two looks at a condition that a process needs at its start.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// One condition of being ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    #[serde(rename = "check")]
    name: &'static str,
    /// One sentence: what is wrong, and how to mend it. `None` if the condition holds.
    #[serde(rename = "error")]
    problem: Option<String>,
}

impl Check {
    pub fn new(name: &'static str, result: Result<(), String>) -> Self {
        Self { name, problem: result.err() }
    }
}

/// The checks of conditions that come with their names.
pub fn checks(conditions: impl IntoIterator<Item = (&'static str, Result<(), String>)>) -> Vec<Check> {
    conditions.into_iter().map(|(name, result)| Check::new(name, result)).collect()
}

/// Checks every condition of being ready. Each probe calls it anew.
pub type Readiness = Arc<dyn Fn() -> BoxFuture<'static, Vec<Check>> + Send + Sync>;

/// Makes a [`Readiness`] from an async closure.
pub fn readiness<F, R>(checks: F) -> Readiness
where
    F: Fn() -> R + Send + Sync + 'static,
    R: Future<Output = Vec<Check>> + Send + 'static,
{
    Arc::new(move || Box::pin(checks()))
}

/// Waits until `condition` holds, and logs each new reason to wait for `what`.
pub async fn wait_until_ready(what: &str, mut condition: impl AsyncFnMut() -> Result<(), String>) {
    let mut logged = None;
    while let Err(problem) = condition().await {
        if logged.as_ref() != Some(&problem) {
            tracing::warn!("waiting for {what}: {problem}");
            logged = Some(problem);
        }
        sleep(LOOK_AGAIN).await;
    }
}

pub(crate) fn router(metrics: Metrics, readiness: Readiness, shutdown: Shutdown) -> Router {
    Router::new()
        .route("/metrics", get(async move || prometheus(&metrics)))
        .route("/healthz", get("ok\n"))
        .route("/readyz", get(async move || ready(&readiness, &shutdown).await))
}

fn prometheus(metrics: &Metrics) -> Response {
    stalls::publish();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics.render()).into_response()
}

/// The body of `/readyz`.
#[derive(Serialize)]
struct ReadyBody {
    ready: bool,
    failing: Vec<Check>,
}

async fn ready(readiness: &Readiness, shutdown: &Shutdown) -> Response {
    let checks = if shutdown.soft().is_cancelled() {
        vec![Check::new("running", Err("the process is stopping; use another one".to_owned()))]
    } else {
        let mut checks = timeout(READY_WITHIN, readiness()).await.unwrap_or_else(|_| {
            let problem =
                format!("the checks took longer than {} s; look for what hangs", READY_WITHIN.as_secs());
            vec![Check::new("checks", Err(problem))]
        });
        checks.push(Check::new("loops", stalls::check()));
        checks
    };
    let failing: Vec<_> = checks.into_iter().filter(|check| check.problem.is_some()).collect();
    let status = if failing.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = serde_json::to_string(&ReadyBody { ready: failing.is_empty(), failing })
        .expect("names and sentences always serialise");
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Request;
    use http_body_util::BodyExt;
    use hyper::service::Service;
    use hyper_util::service::TowerToHyperService;

    use super::*;

    async fn ask(path: &str, readiness: Readiness, shutdown: &Shutdown) -> (StatusCode, String) {
        let router = router(Metrics::install(&[]), readiness, shutdown.clone());
        let request = Request::get(path).body(Body::empty()).unwrap();
        let answer = TowerToHyperService::new(router).call(request).await.unwrap();
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    fn all_well() -> Readiness {
        readiness(async || vec![Check::new("database", Ok(()))])
    }

    #[tokio::test]
    async fn a_ready_process_says_so_with_200() {
        let answer = ask("/readyz", all_well(), &Shutdown::new()).await;
        assert_eq!(answer, (StatusCode::OK, r#"{"ready":true,"failing":[]}"#.to_owned()));
    }

    #[tokio::test]
    async fn failing_checks_are_listed_each_with_its_mend() {
        let checks = readiness(async || {
            vec![
                Check::new("database", Ok(())),
                Check::new(
                    "schema",
                    Err("the schema is at 3 and 4 is needed; run foreman migrate".to_owned()),
                ),
            ]
        });
        let answer = ask("/readyz", checks, &Shutdown::new()).await;
        assert_eq!(
            answer,
            (
                StatusCode::SERVICE_UNAVAILABLE,
                r#"{"ready":false,"failing":[{"check":"schema","error":"the schema is at 3 and 4 is needed; run foreman migrate"}]}"#.to_owned()
            )
        );
    }

    #[tokio::test]
    async fn a_stopping_process_is_alive_and_not_ready() {
        let shutdown = Shutdown::new();
        shutdown.stop();
        assert_eq!(ask("/readyz", all_well(), &shutdown).await.0, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(ask("/healthz", all_well(), &shutdown).await, (StatusCode::OK, "ok\n".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn checks_that_hang_are_answered_for() {
        let answer = ask("/readyz", readiness(std::future::pending), &Shutdown::new()).await;
        assert_eq!(answer.0, StatusCode::SERVICE_UNAVAILABLE);
        assert!(answer.1.contains("the checks took longer than 4 s"), "{}", answer.1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_waits_for_its_condition_and_looks_again_each_second() {
        let (begun, mut looks) = (tokio::time::Instant::now(), 0);
        wait_until_ready("the test", async || {
            looks += 1;
            if looks < 4 { Err("not yet".to_owned()) } else { Ok(()) }
        })
        .await;
        assert_eq!((looks, begun.elapsed()), (4, LOOK_AGAIN * 3));
    }

    #[tokio::test]
    async fn metrics_are_served_in_prometheus_text() {
        let (status, text) = ask("/metrics", all_well(), &Shutdown::new()).await;
        assert_eq!(status, StatusCode::OK);
        assert!(text.is_empty() || text.starts_with('#'), "{text}");
    }
}
