//! Callers that leave at the moment when their answer is decided.

use foreman_tests::{Api, Db, Line, Worker};
use futures_util::StreamExt as _;
use ollama_sim::{Config, Sim};
use serde_json::json;

use super::call;

/// After an error of Ollama the worker looks at Ollama once more. Over a thin line that look takes so long that the caller is
/// gone before the outcome is in Postgres.
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_leaves_at_ollamas_error_leaves_a_job_that_has_failed() {
    let (db, sim) = (Db::fresh().await, Sim::start(Config::default()).await.unwrap());
    let line = Line::to(sim.url().rsplit_once(':').unwrap().1.parse().unwrap()).await;
    let ollama = format!("http://127.0.0.1:{}", line.port());
    let (api, _worker) = tokio::join!(Api::start(&db, &[]), Worker::start(&db, &ollama, &[]));
    line.throttle(4_000);
    for _ in 0..3 {
        let body = json!({"model": "tiny-a", "prompt": "sim:fault=killed@2"});
        let mut answer = call(&api.url, "/api/generate", &body).await.bytes_stream();
        let mut lines = Vec::new();
        while !lines.ends_with(b"}\n") || !String::from_utf8_lossy(&lines).contains("\"error\"") {
            lines.extend_from_slice(&answer.next().await.expect("the error comes first").unwrap());
        }
    }
    db.every_job_ends().await;
    let ends = "SELECT DISTINCT state || ' ' || coalesce(error_code, '') FROM job_done";
    let ends: Vec<String> = db.values(ends).await;
    assert_eq!(ends, ["failed runner_stopped"]);
}
