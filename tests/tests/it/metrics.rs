//! What the services tell Prometheus, as dashboards and the alerts know it.

mod alerts;
pub(crate) mod exposition;

use std::collections::BTreeSet;

use foreman_tests::{Api, Db, Receiver, ReceiverAnswer, Worker, eventually, http, within};
use ollama_sim::{Config, Sim};
use std::time::Duration;

use crate::{chat, chat_with_webhook};
use exposition::Exposition;

/// A metric: its name, its type, and the labels of each of its series.
type Metric = (&'static str, &'static str, &'static [&'static str]);

const BOTH: &[Metric] = &[
    ("foreman_background_errors_total", "counter", &["task"]),
    ("foreman_loop_stalled_seconds", "gauge", &["task"]),
    ("foreman_connections", "gauge", &["listener"]),
    ("foreman_connections_shed_total", "counter", &["listener"]),
];

const API: &[Metric] = &[
    ("foreman_jobs_submitted_total", "counter", &["model"]),
    ("foreman_http_requests_total", "counter", &["route", "status"]),
    ("foreman_http_request_seconds", "histogram", &["route"]),
    ("foreman_sync_waiting", "gauge", &[]),
    ("foreman_share_used", "gauge", &["share"]),
    ("foreman_share_limit", "gauge", &["share"]),
    ("foreman_share_refusals_total", "counter", &["share", "short"]),
];

const WORKER: &[Metric] = &[
    ("foreman_jobs_finished_total", "counter", &["model", "state"]),
    ("foreman_job_wait_seconds", "histogram", &[]),
    ("foreman_job_load_seconds", "histogram", &["model"]),
    ("foreman_job_run_seconds", "histogram", &["model"]),
    ("foreman_tokens_total", "counter", &["kind", "model"]),
    ("foreman_deliveries_total", "counter", &["code", "outcome"]),
    ("foreman_delivery_attempt_seconds", "histogram", &[]),
    ("foreman_delivery_lag_seconds", "histogram", &[]),
];

/// Counters without labels: there from the start, or an alert over their increase would miss the first event.
const FROM_THE_START: &[Metric] = &[
    ("foreman_loads_total", "counter", &[]),
    ("foreman_first_come_loads_total", "counter", &[]),
    ("foreman_model_switches_total", "counter", &[]),
    ("foreman_context_fitted_total", "counter", &[]),
    ("foreman_gpu_idle_seconds_total", "counter", &[]),
    ("foreman_lease_rescues_total", "counter", &[]),
    ("foreman_stale_writes_total", "counter", &[]),
    ("foreman_deliveries_claimed_total", "counter", &[]),
    ("foreman_deliveries_unsigned_total", "counter", &[]),
];

/// Read from the database by one worker.
const OF_THE_DATABASE: &[Metric] = &[
    ("foreman_jobs_queued", "gauge", &["model"]),
    ("foreman_job_oldest_queued_seconds", "gauge", &["model"]),
    ("foreman_outbox_oldest_seconds", "gauge", &[]),
    ("foreman_deliveries_due", "gauge", &[]),
    ("foreman_delivery_oldest_due_seconds", "gauge", &[]),
    ("foreman_lanes_open", "gauge", &[]),
    ("foreman_hosts_drained", "gauge", &[]),
    ("foreman_partition_days_ahead", "gauge", &[]),
    ("foreman_db_oldest_transaction_seconds", "gauge", &[]),
];

/// Exactly these metrics are there, each with its type and labels.
fn assert_exports(scraped: &Exposition, expected: &[&[Metric]]) {
    let expected: Vec<&Metric> = expected.iter().copied().flatten().collect();
    let names: BTreeSet<&str> = expected.iter().map(|metric| metric.0).collect();
    assert_eq!(scraped.names(), names);
    for (name, kind, labels) in expected {
        let family = scraped.family(name);
        assert_eq!(
            (family.kind.as_str(), family.label_names()),
            (*kind, BTreeSet::from([labels.to_vec()])),
            "{name}"
        );
    }
}

/// Scrapes until `right` finds what it looks for.
async fn scraped<T>(what: &str, ops_url: &str, right: impl Fn(&Exposition) -> Option<T>) -> Exposition {
    within(Duration::from_secs(60), what, async || {
        let scraped = Exposition::scrape(ops_url).await;
        if right(&scraped).is_some() { Ok(scraped) } else { Err(format!("{scraped:?}")) }
    })
    .await
}

#[test]
fn every_metric_is_told_of_to_operators() {
    let operations = include_str!("../../../docs/operations.md");
    for (name, ..) in [BOTH, API, WORKER, FROM_THE_START, OF_THE_DATABASE].concat() {
        let told = [format!("`{name}`"), format!("`{name}{{")].iter().any(|told| operations.contains(told));
        assert!(told, "docs/operations.md says nothing of {name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_without_labels_stand_at_0_before_anything_has_happened() {
    let db = Db::fresh().await;
    let sim = Sim::start(Config::default()).await.unwrap();
    let worker = Worker::start(&db, &sim.url(), &[]).await;
    let scraped = Exposition::scrape(&worker.ops_url).await;
    for (name, kind, _) in FROM_THE_START {
        assert_eq!(
            (scraped.family(name).kind.as_str(), scraped.sum(name, &[])),
            (*kind, Some(0.0)),
            "{name}"
        );
    }
    // Tasks are labels that we name: they too.
    assert_eq!(scraped.sum("foreman_background_errors_total", &[("task", "relay")]), Some(0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_loops_that_ask_for_work_and_look_at_ollama_are_watched_too() {
    let db = Db::fresh().await;
    let sim = Sim::start(Config::default()).await.unwrap();
    let api = Api::start(&db, &[]).await;
    let holder = Worker::start(&db, &sim.url(), &[]).await;
    api.submit(&chat("hello")).await;
    db.every_job_ends().await;
    let of = |scraped: &Exposition, task| scraped.sum("foreman_loop_stalled_seconds", &[("task", task)]);
    scraped("a claim that is watched", &holder.ops_url, |scraped| of(scraped, "claim")).await;
    // This one publishes nothing while the other has the host, and looks at Ollama all the same.
    let stands_by = Worker::start(&db, &sim.url(), &[]).await;
    scraped("a look that is watched", &stands_by.ops_url, |scraped| of(scraped, "inventory")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_has_its_type_and_its_labels_and_counts_what_happened() {
    let db = Db::fresh().await;
    let sim = Sim::start(Config::default().models(["tiny-a", "tiny-b"])).await.unwrap();
    let receiver =
        Receiver::answering(|_, nth| ReceiverAnswer::Status(if nth == 0 { 503 } else { 200 })).await;
    let api = Api::start(&db, &[]).await;
    let retries = [("FOREMAN_WEBHOOK_RETRY_SCHEDULE", "1s,1s,1s")];
    let worker = Worker::start(&db, &sim.url(), &retries).await;

    // The label is the model's own name, whatever clients call it.
    let mut job = chat_with_webhook("hello sim:tokens=7", &receiver.url("/"));
    job["model"] = "Tiny-A:latest".into();
    let first = api.submit(&job).await;
    db.every_job_ends().await;
    job = chat("hello");
    job["model"] = "tiny-b".into();
    api.submit(&job).await;
    db.every_job_ends().await;
    api.submit(&chat("sim:fault=error=400")).await;
    db.every_job_ends().await;
    assert_eq!(http().get(format!("{}/no/such/{{}}", api.url)).send().await.unwrap().status(), 404);
    eventually("the receiver's four webhooks", async || match receiver.count() {
        5 => Ok(()),
        count => Err(count),
    })
    .await;

    let of_api = Exposition::scrape(&api.ops_url).await;
    assert_exports(&of_api, &[BOTH, API]);
    let submitted = |model| of_api.sum("foreman_jobs_submitted_total", &[("model", model)]);
    assert_eq!((submitted("tiny-a:latest"), submitted("tiny-b:latest")), (Some(2.0), Some(1.0)));
    let requests =
        |route, status| of_api.sum("foreman_http_requests_total", &[("route", route), ("status", status)]);
    assert_eq!((requests("/jobs", "202"), requests("none", "404")), (Some(3.0), Some(1.0)));
    assert_eq!(of_api.count("foreman_http_request_seconds", &[("route", "/jobs")]), Some(3.0));

    let of_worker = scraped("every metric of a worker", &worker.ops_url, |scraped| {
        scraped.sum("foreman_deliveries_total", &[("outcome", "delivered")]).filter(|count| *count == 4.0)?;
        scraped.sum("foreman_partition_days_ahead", &[])
    })
    .await;
    // Nothing waits, so no model has a backlog.
    let waits = |metric: &&Metric| metric.2.is_empty();
    let gauges: Vec<Metric> = OF_THE_DATABASE.iter().filter(waits).copied().collect();
    assert_exports(&of_worker, &[BOTH, WORKER, FROM_THE_START, &gauges]);
    let finished =
        |model, state| of_worker.sum("foreman_jobs_finished_total", &[("model", model), ("state", state)]);
    assert_eq!(finished("tiny-a:latest", "done"), Some(1.0));
    assert_eq!(finished("tiny-a:latest", "failed"), Some(1.0));
    assert_eq!(finished("tiny-b:latest", "done"), Some(1.0));
    let used = api.get(&format!("/jobs/{first}")).await["usage"].clone();
    let tokens = |kind| of_worker.sum("foreman_tokens_total", &[("model", "tiny-a:latest"), ("kind", kind)]);
    assert!(used["completion_tokens"].as_f64() >= Some(7.0), "{used}");
    assert_eq!(tokens("completion"), used["completion_tokens"].as_f64());
    assert_eq!(tokens("prompt"), used["prompt_tokens"].as_f64());
    assert_eq!(of_worker.count("foreman_job_wait_seconds", &[]), Some(3.0));
    assert_eq!(of_worker.count("foreman_job_run_seconds", &[("model", "tiny-b:latest")]), Some(1.0));
    assert_eq!(of_worker.count("foreman_job_load_seconds", &[("model", "tiny-b:latest")]), Some(1.0));
    assert!(of_worker.sum("foreman_model_switches_total", &[]) >= Some(2.0));
    let deliveries =
        |outcome, code| of_worker.sum("foreman_deliveries_total", &[("outcome", outcome), ("code", code)]);
    assert_eq!(deliveries("retry", "status_503"), Some(1.0));
    assert_eq!(of_worker.sum("foreman_deliveries_claimed_total", &[]), Some(5.0));
    assert_eq!(of_worker.sum("foreman_deliveries_unsigned_total", &[]), Some(5.0));
    assert_eq!(of_worker.count("foreman_delivery_attempt_seconds", &[]), Some(5.0));
    assert_eq!(of_worker.count("foreman_delivery_lag_seconds", &[]), Some(4.0));
    let ahead = of_worker.sum("foreman_partition_days_ahead", &[]).unwrap();
    assert!((13.0..=14.0).contains(&ahead), "{ahead} days");
}

#[tokio::test(flavor = "multi_thread")]
async fn gauges_of_the_database_follow_what_waits_there() {
    const HOUR: f64 = 3_600.0;
    let db = Db::fresh().await;
    let sim = Sim::start(Config::default().models(["tiny-a", "tiny-b"])).await.unwrap();
    let api = Api::start(&db, &[]).await;
    // Nobody sends, so that what is due stays due.
    let worker = Worker::start(&db, &sim.url(), &[("FOREMAN_WORKER_ROLES", "run,relay,janitor")]).await;
    api.submit(&chat_with_webhook("hello", "http://127.0.0.1:9/")).await;
    db.every_job_ends().await;
    eventually("four deliveries", async || {
        let made: i64 = db.value("SELECT count(*) FROM webhook_delivery").await;
        if made == 4 { Ok(()) } else { Err(made) }
    })
    .await;
    db.run("UPDATE webhook_delivery SET next_attempt_at = next_attempt_at - interval '1 hour'").await;

    // The relay is kept from its turn by a transaction that stays open, and the first of two jobs keeps the second waiting:
    // one for another model, which nobody holds ahead of its slot.
    let mut keeper = db.pool.acquire().await.unwrap();
    sqlx::raw_sql(
        "SET idle_in_transaction_session_timeout = 0; BEGIN;
         SELECT pg_advisory_xact_lock(hashtext('foreman relay'))",
    )
    .execute(&mut *keeper)
    .await
    .unwrap();
    let first = api.submit(&chat("sim:fault=hang@1")).await;
    eventually("a job that hangs", async || {
        let state = api.get(&format!("/jobs/{first}")).await["state"].clone();
        if state == "working" { Ok(()) } else { Err(state) }
    })
    .await;
    let mut other = chat("hello");
    other["model"] = "tiny-b".into();
    api.submit(&other).await;
    for aged in [
        "UPDATE outbox SET at = at - interval '1 hour'",
        "UPDATE job_ready SET eligible_at = eligible_at - interval '1 hour'",
    ] {
        assert!(db.run(aged).await > 0, "{aged}");
    }

    let waiting = scraped("an old backlog of everything", &worker.ops_url, |scraped| {
        [
            "foreman_outbox_oldest_seconds",
            "foreman_job_oldest_queued_seconds",
            "foreman_delivery_oldest_due_seconds",
        ]
        .iter()
        .all(|name| scraped.sum(name, &[]) >= Some(HOUR))
        .then_some(())
    })
    .await;
    for (name, kind, labels) in OF_THE_DATABASE {
        let family = waiting.family(name);
        assert_eq!(
            (family.kind.as_str(), family.label_names()),
            (*kind, BTreeSet::from([labels.to_vec()])),
            "{name}"
        );
    }
    assert_eq!(waiting.sum("foreman_jobs_queued", &[("model", "tiny-b:latest")]), Some(1.0));
    assert_eq!(waiting.sum("foreman_deliveries_due", &[]), Some(4.0));
    assert!(waiting.sum("foreman_db_oldest_transaction_seconds", &[]) > Some(0.0));

    sqlx::raw_sql("COMMIT").execute(&mut *keeper).await.unwrap();
    db.run("DELETE FROM webhook_delivery").await;
    http().post(format!("{}/jobs/{first}/cancel", api.url)).send().await.unwrap();
    db.every_job_ends().await;
    let over = scraped("no backlog of anything", &worker.ops_url, |scraped| {
        let none = scraped.sum("foreman_jobs_queued", &[]).is_none()
            && scraped.sum("foreman_outbox_oldest_seconds", &[]) == Some(0.0);
        none.then_some(())
    })
    .await;
    assert!(!over.names().contains("foreman_job_oldest_queued_seconds"), "{over:?}");
    assert_eq!(over.sum("foreman_deliveries_due", &[]), Some(0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gpu_that_stands_idle_while_work_waits_is_counted() {
    let db = Db::fresh().await;
    let sim = Sim::start(Config::default()).await.unwrap();
    let (api, worker) = (Api::start(&db, &[]).await, Worker::start(&db, &sim.url(), &[]).await);
    sim.go_away().await;
    api.submit(&chat("hello")).await;
    scraped("seconds of an idle GPU", &worker.ops_url, |scraped| {
        scraped.sum("foreman_gpu_idle_seconds_total", &[]).filter(|seconds| *seconds >= 1.0)
    })
    .await;
    sim.come_back().await.unwrap();
    db.every_job_ends().await;
}
