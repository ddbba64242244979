//! One job from its submission to its last webhook, through the real processes.

use std::time::Duration;

use foreman_tests::{Api, Db, Process, Receiver, Worker, eventually, free_port, http, within};
use ollama_sim::{Config, Kind, Sim};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{chat, chat_with_webhook};

async fn one_of_each(db: &Db, sim: &Sim) -> (Api, Worker) {
    let ollama = sim.url();
    tokio::join!(Api::start(db, &[]), Worker::start(db, &ollama, &[]))
}

async fn finished(api: &Api, job: &str) -> Value {
    let path = format!("/jobs/{job}?wait=30");
    eventually("the end of a job", async || {
        let job = api.get(&path).await;
        if job["completed_at"].is_null() { Err(job) } else { Ok(job) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_queued_loading_working_and_done_and_its_receiver_hears_of_each() {
    let (db, receiver) = (Db::fresh().await, Receiver::start().await);
    let sim = Sim::start(Config::default()).await.unwrap();
    let (api, _worker) = one_of_each(&db, &sim).await;
    let id = api.submit(&chat_with_webhook("sim:echo hello", &receiver.url("/hook"))).await;
    let job = finished(&api, &id).await;
    assert_eq!(
        (&job["state"], &job["attempt"], &job["seq"]),
        (&json!("done"), &json!(1), &json!(4)),
        "{job}"
    );
    assert!(job["result"]["message"]["content"].as_str().unwrap().contains("hello"), "{job}");

    let events = eventually("four webhooks", async || {
        let received = receiver.received();
        if received.len() == 4 { Ok(received) } else { Err(format!("{} have come", received.len())) }
    })
    .await;
    let states: Vec<Value> = events.iter().map(|event| event.json()["state"].clone()).collect();
    assert_eq!(states, ["queued", "loading", "working", "done"]);
    for (event, seq) in events.iter().zip(1..) {
        let body = event.json();
        assert_eq!((&body["job_id"], &body["seq"]), (&json!(id), &json!(seq)));
        assert_eq!(event.header("webhook-id"), format!("{id}_{seq}"));
        assert_eq!(body["artifacts"].is_null(), seq < 4, "{body}");
    }
    assert_eq!(events[3].json()["result"], job["result"]);
    db.every_job_has_one_room().await;
}

/// Each job goes through some ten steps that one loop makes and another waits for, and nothing else happens meanwhile.
/// Were one of them left to the relay's poll, the jobs would take longer than they may.
#[tokio::test(flavor = "multi_thread")]
async fn on_a_quiet_system_no_step_of_a_job_waits_for_a_poll() {
    const JOBS: u32 = 20;
    const SHORTEST_POLL: Duration = Duration::from_millis(375);
    let (db, receiver) = (Db::fresh().await, Receiver::start().await);
    let sim = Sim::start(Config::default()).await.unwrap();
    let (api, _worker) = one_of_each(&db, &sim).await;
    let endless = chat_with_webhook("sim:tokens=1000 sim:token-delay=1s", &receiver.url("/"));
    let end = Instant::now() + SHORTEST_POLL * JOBS;
    let told = async |count: usize, what: &str| {
        within(end.saturating_duration_since(Instant::now()), what, async || match receiver.count() {
            come if come == count => Ok(()),
            come => Err(format!("{come} of {count} webhooks have come")),
        })
        .await;
    };
    for job in 0..JOBS as usize {
        let id = api.submit(&endless).await;
        told(4 * job + 3, "`queued`, `loading` and `working` of a job that runs").await;
        let cancel = http().post(format!("{}/jobs/{id}/cancel", api.url)).send().await.unwrap();
        assert_eq!(cancel.status(), 200);
        told(4 * job + 4, "`cancelled`").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ollama_gets_the_body_as_the_client_wrote_it_but_for_what_is_ours() {
    let db = Db::fresh().await;
    let sim = Sim::start(Config::default()).await.unwrap();
    let (api, _worker) = one_of_each(&db, &sim).await;
    let body = r#"{ "options" : {"seed": 7, "temperature":0.50}, "priority":3, "model":"tiny-a",
                    "keep_alive":"1h", "messages":[{"content":"é\u0000\/ü", "role":"user"}], "unheard":[1,  2] }"#;
    let answer = http().post(format!("{}/jobs", api.url)).body(body).send().await.unwrap();
    assert_eq!(answer.status(), 202);
    sim.until(|log| log.runs().len() == 1).await;
    let log = sim.log();
    let sent: Vec<_> = log.runs().iter().map(|run| String::from_utf8(run.body.to_vec()).unwrap()).collect();
    let value = |text: &str| sent[0].contains(text);
    for kept in
        [r#"{"seed": 7, "temperature":0.50}"#, r#"[{"content":"é\u0000\/ü", "role":"user"}]"#, "[1,  2]"]
    {
        assert!(value(kept), "{kept} in {}", sent[0]);
    }
    let keys: Vec<String> =
        serde_json::from_str::<Value>(&sent[0]).unwrap().as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["options", "model", "messages", "unheard", "stream"]);
    db.every_job_ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_transaction_is_open_while_ollama_or_a_receiver_keeps_us_waiting() {
    let db = Db::fresh().await;
    let receiver = Receiver::answering(|_, _| foreman_tests::ReceiverAnswer::Hang).await;
    let sim = Sim::start(Config::default()).await.unwrap();
    let (api, _worker) = one_of_each(&db, &sim).await;
    let id = api.submit(&chat_with_webhook("sim:fault=hang@1", &receiver.url("/"))).await;
    eventually("a job that hangs and a receiver that hangs", async || {
        let (state, calls) = (api.get(&format!("/jobs/{id}")).await["state"].clone(), receiver.count());
        if state == "working" && calls > 0 { Ok(()) } else { Err(format!("{state}, {calls} calls")) }
    })
    .await;
    // Nothing can go on: a transaction that is open for their sake stays open.
    let open = "SELECT count(*) FROM pg_stat_activity
                WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL";
    eventually("a moment without transactions", async || match db.value::<i64>(open).await {
        0 => Ok(()),
        open => Err(format!("{open} are open")),
    })
    .await;
    assert_eq!(api.get(&format!("/jobs/{id}")).await["state"], "working");
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_run_when_no_wake_up_is_ever_heard() {
    let db = Db::fresh().await;
    let sim = Sim::start(Config::default()).await.unwrap();
    let (api, _worker) = one_of_each(&db, &sim).await;
    // Whoever listens loses his connection, again and again.
    let deaf = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                WHERE datname = current_database() AND query ILIKE 'LISTEN%'";
    for _ in 0..5 {
        let id = api.submit(&chat("hello")).await;
        eventually("the end of a job that nobody was woken for", async || {
            db.value::<i64>(deaf).await;
            let state = api.get(&format!("/jobs/{id}")).await["state"].clone();
            if state == "done" { Ok(()) } else { Err(state) }
        })
        .await;
    }
    assert_eq!(sim.log().runs().len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_alternate_between_models_are_drained_one_model_after_the_other() {
    let db = Db::fresh().await;
    let config = Config { load_delay: Duration::from_millis(300), ..Config::default() };
    let sim = Sim::start(config.models(["tiny-a", "tiny-b"])).await.unwrap();
    let api = Api::start(&db, &[]).await;
    let worker = Worker::start(&db, &sim.url(), &[]).await;
    for nth in 0..40 {
        let mut job = chat(&format!("{nth}"));
        job["model"] = ["tiny-a", "tiny-b"][nth % 2].into();
        api.submit(&job).await;
    }
    db.every_job_ends().await;
    let log = sim.log();
    assert!(log.loads <= 6, "{} loads for forty jobs of two models", log.loads);
    assert_eq!(log.records.iter().filter(|record| record.kind == Kind::Run).count(), 40);
    assert!(worker.metric("foreman_model_switches_total").await >= 1.0);
    db.every_job_has_one_room().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_refuses_foreman_in_ollamas_place() {
    let db = Db::fresh().await;
    let api = Api::start(&db, &[]).await;
    let ops = format!("127.0.0.1:{}", free_port());
    let settings = [
        ("DATABASE_URL", db.url()),
        ("OLLAMA_HOST", api.url.as_str()),
        ("FOREMAN_WORKER_OPS_ADDR", ops.as_str()),
        ("FOREMAN_WORKER_STREAM_ADDR", "127.0.0.1:0"),
    ];
    let mut worker = Process::start("foreman-worker", &[], &settings);
    assert!(!worker.ended().await.success());
    assert!(worker.log().contains("set OLLAMA_HOST to the Ollama behind it"), "{}", worker.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_about_an_attempt_names_its_job_once_in_either_format() {
    let db = Db::fresh().await;
    let sim = Sim::start(Config::default()).await.unwrap();
    let api = Api::start(&db, &[]).await;
    let line_of_failure = async |format: &str| {
        let settings = [("FOREMAN_LOG", "warn"), ("FOREMAN_LOG_FORMAT", format)];
        let worker = Worker::start(&db, &sim.url(), &settings).await;
        let job = api.submit(&chat("sim:fault=error=400")).await;
        db.every_job_ends().await;
        let log = worker.process.log();
        let line = log.lines().find(|line| line.contains("an attempt failed") && line.contains(&job));
        let line = line.unwrap_or_else(|| panic!("nothing tells of {job} in\n{log}")).to_owned();
        assert_eq!(line.matches(&job).count(), 1, "{line}");
        (job, line)
    };
    let (job, line) = line_of_failure("json").await;
    let fields: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&fields["job.id"], &fields["attempt"]), (&json!(job), &json!(1)), "{line}");
    let (job, line) = line_of_failure("text").await;
    assert!(line.contains(&format!("attempt{{job.id={job} attempt=1}}")), "{line}");
}
