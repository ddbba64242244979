//! Clients share one GPU: what one of them asks for does not keep the others waiting.

use std::time::Duration;

use foreman_store::JobRequest;
use foreman_tests::{Api, Db, Worker, eventually};
use ollama_sim::{Config, Sim};

use crate::chat;

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_varies_num_ctx_costs_another_about_one_turn() {
    let db = Db::fresh().await;
    let config = Config { load_delay: Duration::from_millis(200), ..Config::default() };
    let sim = Sim::start(config.models(["tiny-a", "tiny-b"])).await.unwrap();
    let api = Api::start(&db, &[]).await;
    let _worker = Worker::start(&db, &sim.url(), &[("FOREMAN_MAX_MODEL_WAIT", "10s")]).await;
    let varied = (1..=300).map(|num_ctx| JobRequest {
        load_key: format!("tiny-a:latest num_ctx={num_ctx}"),
        body: format!(
            r#"{{"model":"tiny-a","prompt":"sim:tokens=1 sim:token-delay=10ms","options":{{"num_ctx":{num_ctx}}},"stream":true}}"#
        ),
        path: "/api/generate".to_owned(),
        ..db.request()
    });
    db.accept_all(&varied.map(|request| db.job(request)).collect::<Vec<_>>()).await;
    // Its line is long, and its jobs run one by one.
    sim.until(|log| log.completed >= 3).await;
    let mut job = chat("hello");
    job["model"] = "tiny-b".into();
    let id = api.submit(&job).await;
    eventually("the end of the other client's job", async || {
        let state = api.get(&format!("/jobs/{id}?wait=10")).await["state"].clone();
        if state == "done" { Ok(()) } else { Err(state) }
    })
    .await;
    let before = format!(
        "SELECT count(*) FROM job_done d, job j
         WHERE j.id = '{}' AND d.client_id <> j.client_id AND d.completed_at > j.created_at
           AND d.completed_at < (SELECT completed_at FROM job_done WHERE job_id = j.id)",
        id.parse::<foreman_store::JobId>().unwrap().uuid()
    );
    let before: i64 = db.value(&before).await;
    assert!(before <= 5, "{before} of 300 jobs went first");
}
