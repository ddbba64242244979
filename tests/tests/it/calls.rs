//! Sync calls: Ollama's own routes, through the queue, as if nothing stood in between.

use std::time::Duration;

use foreman_tests::{eventually, http, within};
use futures_util::StreamExt as _;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::house::{House, call};

mod callers;
mod following;
mod fuzz;
mod hostile;
mod kills;
mod leaving;
mod programs;
mod recorded;
mod repeats;
mod storms;
mod waiting;

/// What came of a call.
#[derive(Debug, PartialEq, Eq)]
struct Answered {
    status: u16,
    content_type: String,
    body: String,
}

async fn answered(answer: reqwest::Response) -> Answered {
    let status = answer.status().as_u16();
    let content_type = answer.headers().get("content-type").map(|value| value.to_str().unwrap().to_owned());
    let content_type = content_type.unwrap_or_default();
    Answered { status, content_type, body: answer.text().await.unwrap() }
}

/// An answer without what differs between two runs of the same request.
fn comparable(answer: &Answered) -> String {
    let mut lines = Vec::new();
    for line in answer.body.split('\n') {
        let json = line.strip_prefix("data: ").unwrap_or(line);
        lines.push(match serde_json::from_str::<Value>(json) {
            Ok(mut value) => {
                blank(&mut value);
                value.to_string()
            }
            Err(_) => line.to_owned(),
        });
    }
    format!("{} {}\n{}", answer.status, answer.content_type, lines.join("\n"))
}

fn blank(value: &mut Value) {
    const DIFFERS: [&str; 12] = [
        "created_at",
        "created",
        "completed_at",
        "id",
        "item_id",
        "request_id",
        "total_duration",
        "load_duration",
        "prompt_eval_duration",
        "eval_duration",
        "expires_at",
        "call_id",
    ];
    match value {
        Value::Object(members) => {
            for (key, value) in members.iter_mut() {
                if DIFFERS.contains(&key.as_str()) { *value = Value::Null } else { blank(value) }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(blank),
        _ => {}
    }
}

/// A request on each of the six routes.
fn requests(stream: bool) -> [(&'static str, Value); 6] {
    let messages = json!([{"role": "user", "content": "the sky is"}]);
    [
        ("/api/chat", json!({"model": "tiny-a", "messages": messages, "stream": stream})),
        ("/api/generate", json!({"model": "tiny-a", "prompt": "the sky is", "stream": stream})),
        ("/v1/chat/completions", json!({"model": "tiny-a", "messages": messages, "stream": stream})),
        ("/v1/completions", json!({"model": "tiny-a", "prompt": "the sky is", "stream": stream})),
        ("/v1/responses", json!({"model": "tiny-a", "input": "the sky is", "stream": stream})),
        ("/v1/messages", json!({"model": "tiny-a", "max_tokens": 9, "messages": messages, "stream": stream})),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_comes_as_if_nothing_stood_in_between() {
    let house = House::start(&[], &[]).await;
    let ollama = house.sim.url();
    for stream in [true, false] {
        for (path, body) in requests(stream) {
            let direct = answered(call(&ollama, path, &body).await).await;
            let through = house.call(path, &body).await;
            let job = through.headers()["foreman-job"].to_str().unwrap().to_owned();
            assert!(through.headers().contains_key("x-request-id"));
            let through = answered(through).await;
            assert_eq!(comparable(&through), comparable(&direct), "{path} {stream}");
            assert_eq!(through.status, 200);

            let shown = eventually("the end of the job", async || {
                let job = house.api.get(&format!("/jobs/{job}")).await;
                if job["state"] == "done" { Ok(job) } else { Err(job) }
            })
            .await;
            let artifact = http()
                .get(format!("{}/jobs/{job}/artifacts/completion", house.api.url))
                .send()
                .await
                .unwrap();
            assert_eq!(answered(artifact).await, through, "the artifact is what was streamed");
            let is_json = through.content_type.starts_with("application/json");
            assert_eq!(shown["result"].is_object(), is_json, "{shown}");
            assert!(shown["usage"]["completion_tokens"].is_u64() || path.starts_with("/v1/"), "{shown}");
        }
    }
    house.db.every_job_has_one_room().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pieces_come_one_by_one_while_ollama_speaks() {
    let house = House::start(&[], &[]).await;
    let body = json!({"model": "tiny-a", "messages": [{"role": "user", "content": "sim:tokens=3 sim:fault=hang@2"}]});
    let mut chunks = house.call("/api/chat", &body).await.bytes_stream();
    let first = chunks.next().await.unwrap().unwrap();
    let line: Value = serde_json::from_slice(first.trim_ascii()).unwrap();
    assert_eq!((line["done"].as_bool(), first.last()), (Some(false), Some(&b'\n')), "{line}");
    drop(chunks);
    house.sim.until(|log| log.in_flight() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ollamas_own_errors_keep_their_status_and_their_shape() {
    let house = House::start(&[], &[]).await;
    let ollama = house.sim.url();
    for (path, body) in [
        ("/api/chat", json!({"model": "nope", "messages": []})),
        ("/api/chat", json!({"messages": []})),
        ("/api/generate", json!({"prompt": "x"})),
        ("/api/chat", json!({"model": "tiny-a", "messages": [{"role": "user", "content": 5}]})),
        ("/api/chat", json!({"model": "tiny-a", "messages": [{"content": "x"}], "format": "yaml"})),
        (
            "/api/chat",
            json!({"model": "tiny-a", "messages": [{"content": "x"}], "options": {"num_ctx": "big"}}),
        ),
        ("/api/chat", json!({"model": "tiny-a", "messages": [{"content": "x"}], "stream": "yes"})),
        ("/v1/chat/completions", json!({"model": "nope", "messages": [{"role": "user", "content": "x"}]})),
        ("/v1/chat/completions", json!({"model": "tiny-a", "messages": []})),
    ] {
        let direct = answered(call(&ollama, path, &body).await).await;
        let through = answered(house.call(path, &body).await).await;
        let shown = |answer: &Answered| (answer.status, answer.body.trim().to_owned());
        assert_eq!(shown(&through), shown(&direct), "{path} {body}");
        assert_ne!(through.status, 200, "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hang_up_cancels_the_job_wherever_it_is() {
    let house = House::start(&[], &[]).await;
    let running = json!({"model": "tiny-a", "messages": [{"role": "user", "content": "sim:fault=hang@1"}]});
    let queued = json!({"model": "tiny-a", "messages": [{"role": "user", "content": "x"}]});
    let mut first = house.call("/api/chat", &running).await.bytes_stream();
    first.next().await.unwrap().unwrap();
    let waiting = tokio::spawn({
        let url = house.api.url.clone();
        async move { call(&url, "/api/chat", &queued).await }
    });
    eventually("a second job", async || {
        let jobs = house.api.get("/jobs?state=queued").await;
        if jobs["data"].as_array().unwrap().len() == 1 { Ok(()) } else { Err(jobs) }
    })
    .await;
    waiting.abort();
    let cancelled = |count| {
        let house = &house;
        within(Duration::from_secs(5), "cancelled jobs", async move || {
            let jobs = house.api.get("/jobs?state=cancelled").await;
            if jobs["data"].as_array().unwrap().len() == count { Ok(()) } else { Err(jobs) }
        })
    };
    cancelled(1).await;
    drop(first);
    cancelled(2).await;
    house.sim.until(|log| log.in_flight() == 0).await;
    assert_eq!(house.sim.log().records.len(), 2, "a preload and the first call reached Ollama");
    house.db.every_job_has_one_room().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_prefers_so_becomes_a_job() {
    let house = House::start(&[], &[]).await;
    let (path, body) = &requests(true)[2];
    let request = http().post(format!("{}{path}", house.api.url)).header("prefer", "respond-async");
    let answer = request.body(body.to_string()).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
    let place = answer.headers()["location"].to_str().unwrap().to_owned();
    let job = eventually("the end of the job", async || {
        let job = house.api.get(&place).await;
        if job["state"] == "done" { Ok(job) } else { Err(job) }
    })
    .await;
    assert_eq!(job["artifacts"][0]["content_type"], "text/event-stream", "{job}");
}
