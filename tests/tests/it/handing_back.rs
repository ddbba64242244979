//! A job that goes back to the queue uncounted does not come back at once to meet the same trouble.

use std::time::Duration;

use foreman_tests::{Api, Db, Worker, eventually};
use ollama_sim::{Config, Fault, Moment, Sim, Trouble};
use serde_json::json;

use crate::chat;

/// When each attempt of the one job began, in seconds since the first.
const BEGINNINGS: &str = "
    SELECT extract(epoch FROM at - min(at) OVER ())::float8
    FROM (SELECT at, state FROM job_event UNION ALL SELECT at, state FROM outbox) AS e
    WHERE state = 'loading' ORDER BY at";

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_redirects_jobs_and_answers_looks_is_tried_ever_more_rarely() {
    let db = Db::fresh().await;
    let sim = Sim::start(Config::default()).await.unwrap();
    let api = Api::start(&db, &[]).await;
    let _worker = Worker::start(&db, &sim.url(), &[]).await;
    // It ends by itself. Postgres knows of a try before Ollama does, so whoever looks there would end it too early.
    sim.fault(Fault::new(Trouble::error(302, "elsewhere"), Moment::Arrival).times(3));
    let id = api.submit(&chat("hello")).await;
    let job = eventually("the end of the job", async || {
        let job = api.get(&format!("/jobs/{id}?wait=10")).await;
        if job["state"] == "done" { Ok(job) } else { Err(job) }
    })
    .await;
    assert_eq!(job["attempt"], 4, "{job}");
    let tries: Vec<f64> = db.values(BEGINNINGS).await;
    assert!(tries[1] >= 1.0 && tries[2] - tries[1] >= 2.0, "{tries:?}");
    assert_eq!(db.value::<i16>("SELECT failures FROM job_done").await, 1, "from the third time on it counts");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_not_handed_back_for_what_is_wrong_with_the_load_on_another_route() {
    let db = Db::fresh().await;
    let config = Config { parallel: 2, load_delay: Duration::from_millis(50), ..Config::default() };
    let sim = Sim::start(config).await.unwrap();
    let api = Api::start(&db, &[]).await;
    let _worker = Worker::start(&db, &sim.url(), &[("FOREMAN_WORKER_SLOTS", "2")]).await;
    sim.fault(
        Fault::new(Trouble::error(400, "\"tiny-a\" does not support chat"), Moment::Arrival)
            .for_body_with("\"messages\""),
    );
    for nth in 0..6 {
        api.submit(&chat("hello")).await;
        api.submit(&json!({"model": "tiny-a", "prompt": format!("job {nth}")})).await;
    }
    db.every_job_ends().await;
    let ended = "SELECT string_agg(format('%s %s', state, jobs), ', ' ORDER BY state)
                 FROM (SELECT state, count(*) AS jobs FROM job_done WHERE attempt = 1 GROUP BY state) AS e";
    assert_eq!(db.value::<String>(ended).await, "done 6, failed 6");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_model_goes_while_it_is_claimed_shows_its_load() {
    let db = Db::fresh().await;
    let sim = Sim::start(Config::default()).await.unwrap();
    let api = Api::start(&db, &[]).await;
    let _worker = Worker::start(&db, &sim.url(), &[("FOREMAN_LEASE_TTL", "60s")]).await;
    let first = api.submit(&chat("hello")).await;
    api.get(&format!("/jobs/{first}?wait=30")).await;

    // The model is resident: a claim begins its jobs. This one gets no answer until the model is gone.
    let mut lock = db.pool.begin().await.unwrap();
    sqlx::raw_sql("SET LOCAL idle_in_transaction_session_timeout = 0; LOCK TABLE job_lease IN SHARE MODE")
        .execute(&mut *lock)
        .await
        .unwrap();
    let second = api.submit(&chat("hello again")).await;
    let waits =
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%claim_jobs%'";
    eventually("a claim that waits", async || match db.value::<i64>(waits).await {
        0 => Err("none does"),
        _ => Ok(()),
    })
    .await;
    let reachable = async |wanted: bool| {
        eventually("what the worker finds out about its host", async || {
            // A model that nobody knows has the hosts look.
            let unknown = json!({"model": "nosuch", "prompt": "x"}).to_string();
            let _asked = foreman_tests::http().post(format!("{}/jobs", api.url)).body(unknown).send().await;
            if db.value::<bool>("SELECT reachable FROM host").await == wanted {
                Ok(())
            } else {
                Err("not yet")
            }
        })
        .await;
    };
    sim.go_away().await;
    reachable(false).await;
    sim.come_back().await.unwrap();
    reachable(true).await;
    lock.commit().await.unwrap();
    eventually("the end of the job", async || {
        let state = api.get(&format!("/jobs/{second}?wait=10")).await["state"].clone();
        if state == "done" { Ok(()) } else { Err(state) }
    })
    .await;
    assert_eq!(
        db.history(second.parse().unwrap()).await,
        ["queued", "loading", "working", "queued", "loading", "working", "done"],
        "it goes back, and begins with its load"
    );
    let loads = "SELECT bool_and(working_at > loading_at) FROM job_done";
    assert!(db.value::<bool>(loads).await);
}
