//! Tests that an api needs no more memory than docs/operations.md states, with large bodies of many clients at once.

use foreman_tests::{Api, success, within};
use futures_util::future::join_all;
use reqwest::Method;
use std::fs;
use std::time::Duration;

use super::{ask, header, json, run, start};

/// An api never has more than this many bytes in memory.
const MOST: usize = 640 << 20;

const CLIENTS: usize = 8;
const LARGE: usize = 31 << 20;

/// The largest number of bytes that this process has had in memory so far.
fn peak(api: &Api) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", api.process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() << 10
}

fn address(client: usize) -> String {
    format!("203.0.113.{client}")
}

/// Sends this as one client until there is room for it, and returns its status and `job_id`.
async fn send(api: &Api, client: usize, path: &str, body: &axum::body::Bytes) -> (u16, Option<String>) {
    within(Duration::from_secs(120), "room for a large body", async || {
        let request = ask(api, Method::POST, path).header("x-forwarded-for", address(client));
        let answer = request.body(body.clone()).send().await.map_err(|error| error.to_string())?;
        match answer.status().as_u16() {
            429 | 503 => Err(header(&answer, "retry-after").to_owned()),
            status => Ok((status, json(answer).await["job_id"].as_str().map(str::to_owned))),
        }
    })
    .await
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_of_many_clients_need_no_more_than_is_stated() {
    let (db, api) = start(&[("FOREMAN_TRUSTED_PROXIES", "127.0.0.1")]).await;
    let plain = axum::body::Bytes::from(format!(r#"{{"model":"tiny-a","prompt":"{}"}}"#, "x".repeat(LARGE)));
    let accepted = join_all((0..CLIENTS).map(|client| send(&api, client, "/jobs", &plain))).await;
    assert!(accepted.iter().all(|(status, _)| *status == 202), "{accepted:?}");
    let after_jobs = peak(&api);

    let many_keys: Vec<String> = (0..2_700_000).map(|key| format!(r#""{key:06}":1"#)).collect();
    let many_keys = axum::body::Bytes::from(format!("{{{}}}", many_keys.join(",")));
    let refused = join_all((0..CLIENTS).map(|client| send(&api, client, "/jobs", &many_keys))).await;
    assert!(refused.iter().all(|(status, _)| *status == 400), "{refused:?}");
    let after_keys = peak(&api);

    let first = accepted[0].1.clone().unwrap();
    run(&db, first.parse().unwrap(), success()).await;
    let path = format!("/jobs/{first}/retry");
    let nothing = axum::body::Bytes::new();
    let retried = join_all((0..CLIENTS).map(|_| send(&api, 0, &path, &nothing))).await;
    assert!(retried.iter().all(|(status, _)| *status == 202), "{retried:?}");
    let after_retries = peak(&api);
    let peaks = [after_jobs, after_keys, after_retries].map(|bytes| bytes >> 20);
    assert!(after_retries < MOST, "MiB after jobs, keys and retries: {peaks:?}");
}
