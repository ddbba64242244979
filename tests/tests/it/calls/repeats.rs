//! An official client repeats a call by itself. The repeat finds the job of before, and does not double it.

use foreman_tests::{Api, eventually, http};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::House;

const PATH: &str = "/v1/chat/completions";

fn body(prompt: &str) -> String {
    json!({"model": "tiny-a", "messages": [{"role": "user", "content": prompt}]}).to_string()
}

async fn call(url: &str, prompt: &str, repeat: u32) -> (String, Value) {
    let request = http().post(format!("{url}{PATH}")).header("x-stainless-retry-count", repeat);
    let answer = request.body(body(prompt)).send().await.unwrap();
    let job = answer.headers()["foreman-job"].to_str().unwrap().to_owned();
    (job, serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap())
}

async fn jobs(api: &Api, count: usize) -> Vec<Value> {
    eventually("so many jobs", async || {
        let jobs = api.get("/jobs").await;
        let jobs = jobs["data"].as_array().unwrap();
        if jobs.len() == count { Ok(jobs.clone()) } else { Err(jobs.len()) }
    })
    .await
}

/// Returns when this many callers of an api wait for an answer.
async fn waiting(api: &Api, count: usize) {
    eventually("so many callers that wait", async || {
        let metrics =
            http().get(format!("{}/metrics", api.ops_url)).send().await.unwrap().text().await.unwrap();
        let line = metrics.lines().find(|line| line.starts_with("foreman_sync_waiting "));
        let line = line.unwrap_or_default().to_owned();
        if line == format!("foreman_sync_waiting {count}") { Ok(()) } else { Err(line) }
    })
    .await;
}

type Sent = JoinHandle<reqwest::Result<reqwest::Response>>;

/// One call runs, and a second one waits behind it.
async fn occupied(house: &House) -> (Sent, Sent) {
    let send = |prompt: &str| {
        tokio::spawn(http().post(format!("{}{PATH}", house.api.url)).body(body(prompt)).send())
    };
    let running = send("sim:fault=hang");
    jobs(&house.api, 1).await;
    let waiting = send("hello");
    jobs(&house.api, 2).await;
    (running, waiting)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_finds_its_job_at_any_api_and_its_first_caller_may_go() {
    let house = House::start(&[], &[]).await;
    let other = Api::start(&house.db, &[]).await;
    let (occupied, first) = occupied(&house).await;
    let repeats = tokio::spawn({
        let urls = [house.api.url.clone(), other.url.clone()];
        async move { tokio::join!(call(&urls[0], "hello", 1), call(&urls[1], "hello", 2)) }
    });
    waiting(&house.api, 3).await;
    waiting(&other, 1).await;
    first.abort();
    waiting(&house.api, 2).await;
    occupied.abort();
    let (here, there) = repeats.await.unwrap();
    assert_eq!((&here.0, &here.1["choices"]), (&there.0, &there.1["choices"]));
    assert!(here.1["choices"][0]["message"]["content"].is_string(), "{}", here.1);
    assert_eq!(jobs(&house.api, 2).await.len(), 2);
    house.db.every_job_has_one_room().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_caller_that_goes_late_leaves_the_job_to_the_caller_at_another_api() {
    let house = House::start(&[], &[]).await;
    let other = Api::start(&house.db, &[]).await;
    let (occupied, first) = occupied(&house).await;
    let url = other.url.clone();
    let repeat = tokio::spawn(async move { call(&url, "hello", 1).await });
    waiting(&other, 1).await;
    first.abort();
    waiting(&house.api, 1).await;
    // Hang-ups are cancelled in turn, so what the first one did is over when this one is cancelled.
    occupied.abort();
    let (job, answer) = repeat.await.unwrap();
    assert!(answer["choices"][0]["message"]["content"].is_string(), "{answer}");
    eventually("the end of the job", async || {
        let job = other.get(&format!("/jobs/{job}")).await;
        if job["state"] == "done" { Ok(()) } else { Err(job) }
    })
    .await;
    house.db.every_job_has_one_room().await;
}
