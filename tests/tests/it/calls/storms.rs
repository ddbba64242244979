//! Many calls at once: an editor that gives up each call while its user types, many streams beside callers that read slowly or
//! not at all.

use std::fs;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use foreman_tests::{http, within};
use futures_util::StreamExt as _;
use ollama_sim::{Config, Kind};
use reqwest::Response;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::callers::{callers, count};
use super::{House, call};
use crate::metrics::exposition::Exposition;

const TYPED: usize = 200;

/// An editor waits this long for the completion of what is typed.
const PATIENCE: Duration = Duration::from_millis(50);

const STREAMS: usize = 500;

fn completion(prompt: &str) -> Value {
    json!({"model": "tiny-a", "prompt": prompt, "stream": true})
}

/// A call that occupies the only slot until it is dropped.
async fn occupied(house: &House) -> Response {
    let mut call = house.call("/api/generate", &completion("sim:tokens=2 sim:fault=hang@1")).await;
    call.chunk().await.unwrap().unwrap();
    call
}

/// Returns when no more connections than these are open, and every job of the callers that are gone is in Postgres. Submits one
/// more job to know that.
async fn all_others_are_gone(house: &House, connected: u32) {
    // The api takes connections in their order, so it has taken those of the callers before this one.
    house.api.get("/jobs").await;
    within(Duration::from_secs(20), "the end of every other connection", async || {
        let scraped = Exposition::scrape(&house.api.ops_url).await;
        let open = scraped.sum("foreman_connections", &[("listener", "http")]);
        if open == Some(f64::from(connected)) { Ok(()) } else { Err(format!("{open:?}")) }
    })
    .await;
    // Jobs are written in their order too.
    let in_an_hour = Utc::now() + TimeDelta::hours(1);
    house.api.submit(&json!({"model": "tiny-a", "prompt": "the last", "run_at": in_an_hour})).await;
}

async fn all_are_cancelled(house: &House, jobs: usize) {
    let count = "SELECT count(*) FROM job_done WHERE state = 'cancelled'";
    within(Duration::from_secs(20), "a cancel of every abandoned call", async || {
        let cancelled: i64 = house.db.value(count).await;
        let accepted: i64 = house.db.value("SELECT count(*) FROM job").await;
        let left = accepted - i64::try_from(jobs).unwrap() - cancelled;
        if left == 0 { Ok(()) } else { Err(format!("{cancelled} of {accepted}")) }
    })
    .await;
}

fn runs(house: &House) -> usize {
    house.sim.look(|log| log.records.iter().filter(|record| record.kind == Kind::Run).count())
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_given_up_while_the_slot_is_taken_never_reach_ollama() {
    let house = House::start(&[("FOREMAN_CLIENT_MAX_STREAMS", "1000")], &[]).await;
    let first = occupied(&house).await;
    let mut typed = JoinSet::new();
    for letter in 0..TYPED {
        let url = house.api.url.clone();
        let prompt = format!("letter {letter}");
        typed.spawn(async move {
            timeout(PATIENCE, call(&url, "/api/generate", &completion(&prompt))).await.is_err()
        });
    }
    assert!(typed.join_all().await.into_iter().all(|given_up| given_up));
    all_others_are_gone(&house, 1).await;
    all_are_cancelled(&house, 2).await;
    assert_eq!(runs(&house), 1, "only the first call");
    drop(first);
    all_are_cancelled(&house, 1).await;
    assert_eq!(runs(&house), 1, "still only the first call");
    house.sim.until(|log| log.in_flight() == 0).await;
    house.db.every_job_has_one_room().await;
}

/// Types letter by letter: each call is given up before the next one is made.
async fn type_on(house: &House, orders: &str) {
    for letter in 0..TYPED {
        let body = completion(&format!("letter {letter} {orders}"));
        let call = async {
            let mut pieces = house.call("/api/generate", &body).await.bytes_stream();
            while pieces.next().await.is_some() {}
        };
        assert!(timeout(PATIENCE, call).await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_given_up_one_after_the_other_run_one_at_a_time() {
    let house = House::start(&[("FOREMAN_CLIENT_MAX_STREAMS", "1000")], &[]).await;
    type_on(&house, "sim:tokens=1000 sim:token-delay=100ms").await;
    all_others_are_gone(&house, 0).await;
    all_are_cancelled(&house, 1).await;
    house.sim.until(|log| log.in_flight() == 0).await;
    let log = house.sim.log();
    assert_eq!((log.max_running, log.completed), (1, 0));
    house.db.every_job_has_one_room().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_given_up_one_after_the_other_never_reach_a_taken_slot() {
    let house = House::start(&[("FOREMAN_CLIENT_MAX_STREAMS", "1000")], &[]).await;
    let first = occupied(&house).await;
    type_on(&house, "").await;
    all_others_are_gone(&house, 1).await;
    all_are_cancelled(&house, 2).await;
    drop(first);
    all_are_cancelled(&house, 1).await;
    house.sim.until(|log| log.in_flight() == 0).await;
    assert_eq!(runs(&house), 1, "only the first call");
    house.db.every_job_has_one_room().await;
}

/// A caller that asks for a long answer and has read nothing of it yet.
async fn caller_that_does_not_read(house: &House) -> TcpStream {
    let mut stream = TcpStream::connect(house.api.url.strip_prefix("http://").unwrap()).await.unwrap();
    let body = completion("sim:bytes=4000000").to_string();
    let head =
        format!("POST /api/generate HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    stream
}

/// The bytes that the api has in memory.
fn resident(house: &House) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", house.api.process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() << 10
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn many_streams_are_answered_beside_callers_that_do_not_read() {
    let config = Config { parallel: 16, ..Config::default() };
    let worker = [("FOREMAN_WORKER_SLOTS", "16")];
    let house = House::before(config, &[("FOREMAN_CLIENT_MAX_STREAMS", "1000")], &worker).await;
    let before = resident(&house);
    let never = caller_that_does_not_read(&house).await;
    let mut slowly = caller_that_does_not_read(&house).await;
    let drips = tokio::spawn(async move {
        let mut byte = [0];
        let mut pace = tokio::time::interval(Duration::from_secs(1));
        while tokio::io::AsyncReadExt::read_exact(&mut slowly, &mut byte).await.is_ok() {
            pace.tick().await;
        }
    });
    // Both have had their whole answer from Ollama, and have not read it.
    house.sim.until(|log| log.completed >= 2).await;
    let callers = callers(&[&house.api.url], STREAMS, "sim:tokens=20 sim:token-delay=2ms sim:echo");
    within(Duration::from_secs(60), "a job for each call", async || {
        let jobs: i64 = house.db.value("SELECT count(*) FROM job").await;
        if jobs == i64::try_from(STREAMS).unwrap() + 2 { Ok(()) } else { Err(jobs) }
    })
    .await;
    let per_stream = resident(&house).saturating_sub(before) / STREAMS;
    let calls = timeout(Duration::from_secs(75), callers.join_all()).await.expect("no call hangs");
    assert_eq!(count(&calls), (STREAMS, 0, 0), "{calls:?}");
    assert!(per_stream < 256 << 10, "{per_stream} bytes per stream");
    drips.abort();
    drop(never);
    house.db.every_job_ends().await;
    house.db.every_job_has_one_room().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_words_of_many_streams_come_in_their_order() {
    let config = Config { parallel: 16, ..Config::default() };
    let worker = [("FOREMAN_WORKER_SLOTS", "16")];
    let house = House::before(config, &[("FOREMAN_CLIENT_MAX_STREAMS", "1000")], &worker).await;
    let mut calls = JoinSet::new();
    for number in 0..100 {
        let (api, ollama) = (house.api.url.clone(), house.sim.url());
        calls.spawn(async move {
            let prompt = format!("{number} is the number of this call sim:echo sim:token-delay=1ms");
            let words = async |url: String| {
                let body = completion(&prompt).to_string();
                let answer = http().post(format!("{url}/api/generate")).body(body).send().await.unwrap();
                let lines = answer.text().await.unwrap();
                let response = |line| serde_json::from_str::<Value>(line).unwrap()["response"].clone();
                lines.lines().map(response).collect::<Vec<_>>()
            };
            let through = words(api).await;
            assert_eq!(through, words(ollama).await);
            through.len()
        });
    }
    assert!(calls.join_all().await.into_iter().all(|words| words > 5));
}
