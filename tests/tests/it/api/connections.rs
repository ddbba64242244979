//! Tests that connections without a request, which need no key, keep no client out.

use foreman_tests::{Api, Db, within};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{JOB, get, post, publish};
use crate::metrics::exposition::Exposition;

/// Opens this many connections to this URL, and sends half a head on every second one.
async fn crowd(url: &str, count: usize) -> Vec<TcpStream> {
    let address = url.strip_prefix("http://").unwrap();
    let mut crowd = Vec::with_capacity(count);
    for index in 0..count {
        let mut stream = TcpStream::connect(address).await.unwrap();
        if index % 2 == 0 {
            // The api may have closed it already.
            let _sent = stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: ").await;
        }
        crowd.push(stream);
    }
    crowd
}

#[tokio::test(flavor = "multi_thread")]
async fn more_idle_connections_than_an_api_can_have_keep_nobody_out() {
    let db = Db::fresh().await;
    publish(&db).await;
    // The process may open fewer files than it wants connections, so that the test needs only few connections.
    let api = Api::start_with_files(&db, 600, &[]).await;
    let _idle = crowd(&api.url, 1_000).await;
    within(Duration::from_secs(5), "a job beside idle connections", async || {
        let status = post(&api, "/jobs", JOB).await.status();
        if status == 202 { Ok(()) } else { Err(status) }
    })
    .await;
    let scraped = Exposition::scrape(&api.ops_url).await;
    let of_clients = [("listener", "http")];
    assert!(
        scraped.sum("foreman_connections", &of_clients) <= Some(344.0),
        "600 files, 256 for other things"
    );
    assert!(scraped.sum("foreman_connections_shed_total", &of_clients) >= Some(600.0));
    assert!(!api.process.log().contains("could not be accepted"), "{}", api.process.log());
    assert_eq!(get(&api, "/jobs").await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_are_answered_beside_idle_connections() {
    let (_db, api) = super::start(&[]).await;
    let _idle = crowd(&api.ops_url, 200).await;
    within(Duration::from_secs(5), "a probe beside idle connections", async || {
        let answer = foreman_tests::http().get(format!("{}/healthz", api.ops_url)).send().await.unwrap();
        if answer.status() == 200 { Ok(()) } else { Err(answer.status()) }
    })
    .await;
}

#[tokio::test]
async fn heads_that_could_be_read_in_two_ways_are_problems_and_end_the_connection() {
    let (_db, api) = super::start(&[]).await;
    let address = api.url.strip_prefix("http://").unwrap();
    for (lines, code) in [
        ("", "host_missing"),
        ("host: localhost\r\nhost: localhost\r\n", "host_repeated"),
        ("host: localhost\r\ntransfer-encoding: gzip, chunked\r\n", "unknown_transfer_encoding"),
        (
            "host: localhost\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
            "unknown_transfer_encoding",
        ),
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("POST /jobs HTTP/1.1\r\n{lines}\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains(code), "{lines}: {answer}");
        assert!(answer.contains("application/problem+json"), "{answer}");
    }
}
