//! What clients, users and models use, as `GET /usage` and `foreman usage` tell it of jobs that real workers run.

use std::time::Duration;

use foreman_tests::{Api, Db, Worker, eventually, http};
use ollama_sim::{Config, LoadDelay, Sim};
use reqwest::Method;
use serde_json::{Value, json};

use crate::chat;
use crate::house::House;

/// Submits a job for a user and waits for its end.
async fn run_for(house: &House, user: &str, job: &Value) -> Value {
    let url = format!("{}/jobs", house.api.url);
    let request =
        http().request(Method::POST, url).header("prefer", "wait=30").header("x-foreman-user", user);
    let answer = request.body(job.to_string()).send().await.unwrap();
    serde_json::from_str(&answer.text().await.unwrap()).unwrap()
}

async fn sums(house: &House, query: &str) -> Vec<Value> {
    house.api.get(&format!("/usage?{query}")).await["data"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_jobs_of_users_and_models_are_told_apart_and_counted_as_they_ended() {
    let house = House::start(&[], &[]).await;
    for (user, prompt) in [
        ("ada", "sim:tokens=5 sim:token-delay=20ms"),
        ("ada", "sim:tokens=5 sim:token-delay=20ms"),
        ("bob", "sim:tokens=2"),
    ] {
        assert_eq!(run_for(&house, user, &chat(prompt)).await["state"], "done");
    }
    let mut other = chat("sim:tokens=3");
    other["model"] = "tiny-b".into();
    assert_eq!(run_for(&house, "bob", &other).await["state"], "done");

    // A caller that hangs up has used the GPU until then.
    let hanging = json!({"model": "tiny-a", "messages": [{"role": "user", "content": "sim:tokens=3 sim:fault=hang@2"}]});
    let mut call = house.call("/api/chat", &hanging).await;
    call.chunk().await.unwrap().unwrap();
    drop(call);
    let cancelled = eventually("the cancelled call", async || {
        let users = sums(&house, "by=user").await;
        match users.iter().find(|sum| sum["jobs"]["cancelled"] == 1) {
            Some(sum) => Ok(sum.clone()),
            None => Err(format!("{users:?}")),
        }
    })
    .await;
    assert_eq!(cancelled["user"], Value::Null);
    assert!(cancelled["gpu_seconds"].as_f64().unwrap() > 0.0, "{cancelled}");

    let users = sums(&house, "by=user").await;
    let of = |user: &str| users.iter().find(|sum| sum["user"] == user).unwrap();
    let (ada, bob) = (of("ada"), of("bob"));
    assert_eq!((&ada["jobs"]["done"], &ada["completion_tokens"]), (&json!(2), &json!(12)));
    assert_eq!((&bob["jobs"]["done"], &bob["completion_tokens"]), (&json!(2), &json!(7)));
    assert_eq!((&ada["model"], &ada["hour"]), (&Value::Null, &Value::Null));
    assert!(ada["client"].as_str().unwrap().starts_with("address "), "{ada}");
    assert!(ada["gpu_seconds"].as_f64().unwrap() >= 0.16, "five tokens, 20 ms between them, twice: {ada}");

    let models = sums(&house, "by=model").await;
    let loads: Vec<_> = models.iter().map(|sum| (sum["model"].as_str().unwrap(), &sum["loads"])).collect();
    let told = house.sim.log().loads;
    assert_eq!(loads.iter().map(|(_, loads)| loads.as_u64().unwrap()).sum::<u64>(), told, "{loads:?}");
    assert!(loads.iter().any(|(model, loads)| *model == "tiny-b:latest" && **loads == 1), "{loads:?}");
    let clients = sums(&house, "by=client&limit=1").await;
    assert_eq!(clients[0]["jobs"], json!({"done": 4, "failed": 0, "cancelled": 1, "expired": 0}));
    assert_eq!(
        sums(&house, "by=hour").await.iter().map(|sum| sum["jobs"]["done"].as_u64().unwrap()).sum::<u64>(),
        4
    );
    assert_eq!(sums(&house, "to=2020-01-01T00:00:00Z").await.len(), 0);
    house.db.every_end_is_counted_once().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_counts_for_who_caused_it_also_if_it_is_cancelled() {
    let slow = LoadDelay { model: "tiny-b:latest".into(), num_ctx: None, delay: Duration::from_secs(60) };
    let ollama =
        Config { load_delay: Duration::from_millis(400), load_delays: vec![slow], ..Config::default() };
    let house = House::before(ollama, &[], &[]).await;
    for user in ["ada", "bob"] {
        assert_eq!(run_for(&house, user, &chat("sim:tokens=1")).await["state"], "done");
    }
    let mut never = chat("sim:tokens=1");
    never["model"] = "tiny-b".into();
    let url = format!("{}/jobs", house.api.url);
    let submitted =
        http().post(url).header("x-foreman-user", "eve").body(never.to_string()).send().await.unwrap();
    let submitted: Value = serde_json::from_str(&submitted.text().await.unwrap()).unwrap();
    let path = format!("/jobs/{}", submitted["job_id"].as_str().unwrap());
    let becomes = async |state: &str| {
        let job = house.api.get(&path).await;
        if job["state"] == state { Ok(()) } else { Err(job) }
    };
    eventually("the load", async || becomes("loading").await).await;
    http().post(format!("{}{path}/cancel", house.api.url)).send().await.unwrap();
    eventually("the cancelled job", async || becomes("cancelled").await).await;
    let users = sums(&house, "by=user").await;
    let gpu = |user: &str| {
        let sum = users.iter().find(|sum| sum["user"] == user).unwrap_or_else(|| panic!("{users:?}"));
        (sum["gpu_seconds"].as_f64().unwrap(), sum["loads"].as_u64().unwrap())
    };
    let ((ada, one), (bob, none), (eve, another)) = (gpu("ada"), gpu("bob"), gpu("eve"));
    assert_eq!((one, none, another), (1, 0, 1));
    assert!(ada >= 0.4 && bob > 0.0 && eve > 0.0, "{ada} {bob} {eve}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_killed_in_the_middle_doubles_nothing_and_loses_nothing() {
    let db = Db::fresh().await;
    let sim = Sim::start(Config::default()).await.unwrap();
    let api = Api::start(&db, &[]).await;
    let mut worker = Worker::start(&db, &sim.url(), &[("FOREMAN_LEASE_TTL", "2s")]).await;
    for _ in 0..40 {
        api.submit(&chat("sim:tokens=2 sim:token-delay=10ms")).await;
    }
    for completed in [5, 15, 25] {
        sim.until(|log| log.completed >= completed).await;
        worker.process.kill().await;
        worker.process.start_again();
    }
    db.every_job_ends().await;
    let sums = api.get("/usage").await["data"].clone();
    assert_eq!(sums[0]["jobs"]["done"], 40, "{sums}");
    assert_eq!(sums[0]["completion_tokens"], 40 * 3, "of runs whose answers were lost nothing counts");
    db.every_end_is_counted_once().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_question_is_refused_with_the_mend() {
    let house = House::start(&[], &[]).await;
    for (query, words) in [
        ("by=colour", "client, user, model, hour"),
        ("from=yesterday", "RFC 3339"),
        ("limit=0", "1 to 10000"),
        ("from=2999-01-01T00:00:00Z", "before `to`"),
        ("from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", "before `to`"),
    ] {
        let refused = house.api.get(&format!("/usage?{query}")).await;
        assert_eq!(refused["code"], "invalid_parameter", "{refused}");
        assert!(refused["error"].as_str().unwrap().contains(words), "{refused}");
    }
}
