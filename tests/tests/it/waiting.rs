//! What people are told of jobs that wait: position, eta and the reason, with real workers.

use std::time::Duration;

use foreman_store::{ClientId, JobRequest, NewJob};
use foreman_tests::{Api, Db, eventually, http};
use ollama_sim::Config;
use serde_json::{Value, json};

use crate::api::publish;
use crate::chat;
use crate::house::House;

/// It runs until it is cancelled.
const HANGS: &str = "sim:fault=hang@1";

async fn job(house: &House, id: &str) -> Value {
    house.api.get(&format!("/jobs/{id}")).await
}

async fn submit(house: &House, model: &str, prompt: &str) -> String {
    let mut job = chat(prompt);
    job["model"] = model.into();
    house.api.submit(&job).await
}

async fn cancel(house: &House, id: &str) {
    let url = format!("{}/jobs/{id}/cancel", house.api.url);
    http().post(url).send().await.unwrap().error_for_status().unwrap();
}

async fn has_state(house: &House, id: &str, state: &str) -> Value {
    eventually("a job's state", async || match job(house, id).await {
        job if job["state"] == state => Ok(job),
        job => Err(job.to_string()),
    })
    .await
}

/// Waits until the job is told to wait for this.
async fn waits_for(house: &House, id: &str, reason: &str) -> Value {
    eventually("a reason", async || match job(house, id).await {
        job if job["waiting_for"] == reason => Ok(job),
        job => Err(job.to_string()),
    })
    .await
}

/// One job runs and is measured, and the next one hangs.
async fn occupied(house: &House) -> String {
    let measured = submit(house, "tiny-a", "sim:tokens=2").await;
    has_state(house, &measured, "done").await;
    let hangs = submit(house, "tiny-a", HANGS).await;
    has_state(house, &hangs, "working").await;
    hangs
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_counts_down_to_its_turn() {
    let house = House::start(&[], &[]).await;
    let mut running = occupied(&house).await;
    let mut waiting = Vec::new();
    for _ in 0..4 {
        waiting.push(submit(&house, "tiny-a", HANGS).await);
    }
    let last = waiting.last().unwrap().clone();
    for (nth, next) in waiting.iter().enumerate().take(3) {
        let before = 3 - nth;
        let (jobs, go) = if before == 1 { ("job", "goes") } else { ("jobs", "go") };
        let told = waits_for(&house, &last, &format!("{before} {jobs} of this client {go} before it")).await;
        assert_eq!(told["position"], before + 1);
        assert!(told["eta"].as_str().unwrap() >= told["created_at"].as_str().unwrap(), "{told}");
        let first = job(&house, next).await;
        assert_eq!(first["position"], 1, "{first}");
        assert!(first["eta"].as_str().unwrap() <= job(&house, &last).await["eta"].as_str().unwrap());
        cancel(&house, &running).await;
        has_state(&house, next, "working").await;
        running.clone_from(next);
    }
    let told = waits_for(&house, &last, "it is next, when a job that runs now ends").await;
    assert_eq!(told["position"], 1);
    cancel(&house, &running).await;
    let works = has_state(&house, &last, "working").await;
    for field in ["position", "eta", "waiting_for"] {
        assert_eq!(works[field], Value::Null, "{field}");
    }
    let listed = house.api.get("/jobs?limit=1").await;
    assert_eq!(listed["data"][0]["waiting_for"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_measured_run_there_is_a_place_and_no_time() {
    let house = House::start(&[], &[]).await;
    let hangs = submit(&house, "tiny-a", HANGS).await;
    has_state(&house, &hangs, "working").await;
    let next = submit(&house, "tiny-a", HANGS).await;
    waits_for(&house, &next, "it is next, when a job that runs now ends").await;
    // A forecast of the moment in which the first job began may still name a time.
    eventually("a place and no time", async || {
        let told = job(&house, &next).await;
        if (&told["position"], &told["eta"]) == (&json!(1), &Value::Null) { Ok(()) } else { Err(told) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_another_model_is_told_of_its_load() {
    let config = Config::default().slow_load("tiny-b", Duration::from_secs(600));
    let house = House::before(config, &[], &[]).await;
    let hangs = occupied(&house).await;
    let other = submit(&house, "tiny-b", "sim:tokens=1").await;
    let after = "tiny-b:latest is loaded next, after the jobs of tiny-a:latest that run now";
    assert_eq!(waits_for(&house, &other, after).await["position"], 1);
    cancel(&house, &hangs).await;
    has_state(&house, &other, "loading").await;
    let second = submit(&house, "tiny-b", "sim:tokens=1").await;
    waits_for(&house, &second, "a load of its model that runs now").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_waits_for_its_time_is_told_so() {
    let house = House::start(&[], &[]).await;
    occupied(&house).await;
    let mut later = chat("later");
    later["run_at"] = "2099-01-01T00:00:00Z".into();
    let at = chrono::Utc::now() + chrono::TimeDelta::days(2);
    let at = at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
    later["run_at"] = at.clone().into();
    let id = house.api.submit(&later).await;
    let told = waits_for(&house, &id, &format!("its time, {at}")).await;
    assert_eq!((&told["position"], &told["eta"]), (&Value::Null, &json!(at)));
    house.db.run("UPDATE job_scheduled SET attempt = 1").await;
    waits_for(&house, &id, &format!("its next attempt, at {at}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_model_no_host_can_run_is_told_so() {
    let db = Db::fresh().await;
    publish(&db).await;
    let api = Api::start(&db, &[]).await;
    let id = api.submit(&chat("nobody runs it")).await;
    let waits_for = async |reason: &str| {
        let told = eventually("a reason", async || match api.get(&format!("/jobs/{id}")).await {
            job if job["waiting_for"] == reason => Ok(job),
            job => Err(job.to_string()),
        })
        .await;
        assert_eq!((&told["position"], &told["eta"]), (&Value::Null, &Value::Null));
    };
    waits_for("no host is up that has the model").await;
    db.run("DELETE FROM host_model").await;
    waits_for("no host has the model any more: the job fails soon, unless somebody pulls the model again")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_on_a_drained_host_is_told_so() {
    let house = House::start(&[], &[("FOREMAN_HOST_ID", "gpu")]).await;
    occupied(&house).await;
    let url = format!("{}/hosts/gpu/drain", house.api.url);
    http().post(url).send().await.unwrap().error_for_status().unwrap();
    let id = submit(&house, "tiny-a", "waits").await;
    waits_for(&house, &id, "an operator has drained every host that has the model").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_at_its_ceiling_is_told_so() {
    let config = Config { parallel: 2, ..Config::default() };
    let house = House::before(config, &[], &[("FOREMAN_WORKER_SLOTS", "2")]).await;
    let hangs = occupied(&house).await;
    house.db.run("UPDATE client SET max_running = 1").await;
    let reason = "its client has its ceiling of 1 running job";
    // The ceiling is in force when the worker has read it. Until then each of these jobs runs.
    let mut last = submit(&house, "tiny-a", "sim:tokens=1").await;
    eventually("a job that waits for its client's ceiling", async || {
        let told = job(&house, &last).await;
        if told["state"] == "done" {
            last = submit(&house, "tiny-a", "sim:tokens=1").await;
        }
        if told["waiting_for"] == reason { Ok(()) } else { Err(told.to_string()) }
    })
    .await;
    cancel(&house, &hangs).await;
    has_state(&house, &last, "done").await;
}

async fn of_another_client(db: &Db) -> NewJob {
    let client: ClientId = db.new_client("other", false).await.client;
    db.job(JobRequest {
        client,
        load_key: "tiny-a:latest num_ctx=any".to_owned(),
        body: json!({"model": "tiny-a", "prompt": HANGS, "stream": true}).to_string(),
        path: "/api/generate".to_owned(),
        ..db.request()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_past_its_budget_is_told_so() {
    let house = House::start(&[], &[]).await;
    occupied(&house).await;
    house.db.run("UPDATE client SET gpu_seconds_a_day = 0 WHERE name LIKE 'address%'").await;
    // Each of its jobs may be held already, and the other client's job comes last.
    let own = [submit(&house, "tiny-a", HANGS).await, submit(&house, "tiny-a", HANGS).await];
    let other = of_another_client(&house.db).await;
    house.db.accept_all(&[other]).await;
    let reason = "its client is past its GPU budget of the day, so others go first";
    let told = waits_for(&house, &own[1], reason).await;
    assert_eq!(told["position"], 3, "behind the held job and the other client's");
}

/// Reads the answer until it has this text, and returns what came by then.
async fn until(answer: &mut reqwest::Response, text: &str) -> String {
    let mut read = String::new();
    while !read.contains(text) {
        let chunk = answer.chunk().await.unwrap();
        let chunk = chunk.unwrap_or_else(|| panic!("the answer ended without {text}: {read}"));
        read.push_str(&String::from_utf8_lossy(&chunk));
    }
    read
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_events_tells_where_the_job_stands() {
    let house = House::start(&[], &[]).await;
    let running = occupied(&house).await;
    let first = submit(&house, "tiny-a", HANGS).await;
    let second = submit(&house, "tiny-a", HANGS).await;
    let url = format!("{}/jobs/{second}/events", house.api.url);
    let mut stream = http().get(url).header("accept", "text/event-stream").send().await.unwrap();
    let read = until(&mut stream, "1 job of this client goes before it").await;
    assert!(read.contains("event: waiting\ndata: {") && read.contains("\"position\":2"), "{read}");
    assert_eq!(read.matches("id: ").count(), 1, "only the transition has an id: {read}");
    cancel(&house, &running).await;
    let read = until(&mut stream, "it is next, when a job that runs now ends").await;
    assert!(read.contains("\"position\":1"), "{read}");
    cancel(&house, &first).await;
    until(&mut stream, "\"state\":\"working\"").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_waits_is_told_where_it_stands_and_one_that_ran_how_long_it_waited() {
    let house = House::start(&[("FOREMAN_HEARTBEAT", "2s")], &[]).await;
    let running = occupied(&house).await;
    let body = |path: &str| {
        let mut body = chat("sim:tokens=1");
        body["stream"] = true.into();
        body["max_tokens"] = 5.into();
        (path.to_owned(), body)
    };
    for (path, body) in [body("/v1/chat/completions"), body("/v1/messages")] {
        let mut answer = house.call(&path, &body).await;
        let read = until(&mut answer, "; position 1; expected to begin at 20").await;
        assert!(read.contains("; it is next, when a job that runs now ends\n\n"), "{path}: {read}");
    }
    let mut answer = house.call("/v1/chat/completions", &body("").1).await;
    assert_eq!(answer.headers()["foreman-position"], "1");
    assert!(answer.headers()["foreman-eta"].to_str().unwrap().ends_with('Z'));
    cancel(&house, &running).await;
    until(&mut answer, "[DONE]").await;
    let answer = house.call("/v1/chat/completions", &body("").1).await;
    let waited: u64 = answer.headers()["foreman-wait-ms"].to_str().unwrap().parse().unwrap();
    assert!(waited < 30_000 && !answer.headers().contains_key("foreman-position"));
}
