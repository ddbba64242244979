//! Hostile receivers, all of them against one real worker. Each costs itself its webhooks. The worker keeps no connection and
//! no memory for them, and every delivery is accounted for.

mod server;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use foreman_store::{NewJob, Seal};
use foreman_tests::{Api, Db, NameAnswer, NameServer, Receiver, Worker, eventually, free_port, http};
use serde_json::Value;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;

use self::server::{Manner, Server};
use super::{dispatcher, job_to, logged, peak_memory};

const SECOND: Duration = Duration::from_secs(1);

/// The whole retry schedule, in seconds.
const HOUR: f64 = 3_600.0;

/// Seconds. A date in `Retry-After` is written before the worker starts, and a wait counts from the end of the attempt.
const TOLERANCE: f64 = 120.0;

/// Files that a worker may have opened meanwhile for other reasons, such as connections to Postgres. Far fewer than receivers.
const OTHER_FILES: usize = 5;

/// What the worker may read of an answer, and the sockets of both sides may hold of it.
const TAKEN_AT_MOST: usize = 32 << 20;

/// A receiver, and what is told of its one webhook.
struct Case {
    name: String,
    url: String,
    /// The delivery's state, and the code of its attempt if that failed.
    told: &'static str,
    /// Seconds from the attempt to the next one, before the jitter.
    wait: f64,
    server: Option<Server>,
}

impl Case {
    async fn of(name: &str, told: &'static str, manner: Manner) -> Self {
        let server = Server::start("127.0.0.1", None, manner).await;
        let url = format!("http://127.0.0.1:{}/", server.port);
        Self { name: name.to_owned(), server: Some(server), ..Self::at(url, told) }
    }

    fn at(url: String, told: &'static str) -> Self {
        Self { name: url.clone(), url, told, wait: HOUR, server: None }
    }
}

/// An answer that ends its connection.
fn answer(status: &str, headers: &[u8], body: &[u8]) -> Manner {
    let status = format!("HTTP/1.1 {status}\r\nconnection: close\r\n");
    Manner::Says([status.as_bytes(), headers, b"\r\n", body].concat())
}

fn empty(status: &str, header: &str) -> Manner {
    answer(status, format!("content-length: 0\r\n{header}").as_bytes(), b"")
}

/// A compressed body of so many MiB, which takes a thousandth of that on the line.
fn gzip(mebibytes: usize) -> Manner {
    let command = format!("head -c {mebibytes}M /dev/zero | gzip");
    let body = Command::new("sh").args(["-c", &command]).output().unwrap().stdout;
    let headers = format!("content-encoding: gzip\r\ncontent-length: {}\r\n", body.len());
    answer("200 OK", headers.as_bytes(), &body)
}

fn bad_answers() -> Vec<(&'static str, &'static str, Manner)> {
    let large = format!("x: {}\r\n", "y".repeat(1 << 20));
    let going_on = "HTTP/1.1 100 Continue\r\n\r\n".repeat(1_000).into_bytes();
    let switching = "connection: upgrade\r\nupgrade: x\r\n";
    vec![
        ("hangs", "pending timeout", Manner::Says(Vec::new())),
        (
            "drips headers",
            "pending timeout",
            Manner::Repeats(b"HTTP/1.1 200 OK\r\nx: ".into(), b"y".into(), SECOND),
        ),
        ("endless 100 Continue", "pending timeout", Manner::Repeats(Vec::new(), going_on, Duration::ZERO)),
        ("closes at once", "pending connection_lost", Manner::Closes),
        ("closes after the request", "pending connection_lost", Manner::Breaks(Vec::new())),
        ("resets", "pending connection_lost", Manner::Resets),
        (
            "is no HTTP",
            "pending invalid_answer",
            Manner::Breaks(b"\x15\x03\x01\x00\x02\x02\x16\r\n\r\n".into()),
        ),
        ("a header of 1 MiB", "pending invalid_answer", empty("200 OK", &large)),
        ("101", "pending invalid_answer", empty("101 Switching Protocols", switching)),
        ("304", "pending status_3xx", empty("304 Not Modified", "")),
        ("410", "failed gone", empty("410 Gone", "")),
    ]
}

/// Answers that are good by their status. Nothing that follows changes that.
fn bad_bodies() -> Vec<(&'static str, Manner)> {
    const OK: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";
    let chunks = b"transfer-encoding: chunked\r\ntrailer: x\r\n";
    vec![
        ("204", answer("204 No Content", b"", b"")),
        ("drips its body", Manner::Repeats(OK.into(), b".".into(), SECOND)),
        ("a body without end", Manner::Repeats(OK.into(), vec![b'.'; 64 << 10], Duration::ZERO)),
        ("a body that does not come", answer("200 OK", b"content-length: 9\r\n", b"")),
        ("half a body", Manner::Breaks(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf".into())),
        ("bad chunks", answer("200 OK", chunks, b"no number\r\n")),
        ("trailers", answer("200 OK", chunks, b"2\r\nok\r\n0\r\nx: y\r\n\r\n")),
        ("a gzip bomb", gzip(50)),
        ("more gzip than is read", gzip(200)),
    ]
}

/// What `Retry-After` says, and how many seconds are waited at least.
fn requests_for_time() -> Vec<(Vec<u8>, f64)> {
    let in_hours =
        |hours| (Utc::now() + TimeDelta::hours(hours)).format("%a, %d %b %Y %H:%M:%S GMT").to_string();
    vec![
        (b"0".into(), HOUR),
        (b"7200".into(), 2.0 * HOUR),
        (b"99999999999999999999".into(), 24.0 * HOUR),
        (in_hours(2).into(), 2.0 * HOUR),
        (in_hours(-2).into(), HOUR),
        (b"Mon, 01 Jan 0001 00:00:00 GMT".into(), HOUR),
        (b"Fri, 31 Dec 9999 23:59:59 GMT".into(), 24.0 * HOUR),
        (b"Fri, 31 Dec 99999 23:59:59 GMT".into(), HOUR),
        (b"-1".into(), HOUR),
        (b"inf".into(), HOUR),
        (b"NaN".into(), HOUR),
        (b"1e300".into(), HOUR),
        (b"".into(), HOUR),
        (b"\xff".into(), HOUR),
    ]
}

/// Receivers that matter by their names. The one certificate that the worker trusts is written to `trusted`.
async fn named(trusted: &Path) -> Vec<Case> {
    let made = rcgen::generate_simple_self_signed(["right.example".to_owned()]).unwrap();
    fs::write(trusted, made.cert.pem()).unwrap();
    foreman_runtime::tls::install();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let config = ServerConfig::builder().with_no_client_auth();
    let config = config.with_single_cert(vec![made.cert.der().clone()], key.into()).unwrap();
    let tls = Some(TlsAcceptor::from(Arc::new(config)));
    let secure = Server::start("127.0.0.1", tls, empty("200 OK", "")).await;
    let six = Server::start("::1", None, empty("200 OK", "")).await;
    let wrong = Case::at(format!("https://wrong.example:{}/", secure.port), "pending tls_error");
    let right = Case::at(format!("https://right.example:{}/", secure.port), "delivered");
    let only_six = Case::at(format!("http://six.example:{}/", six.port), "delivered");
    vec![
        wrong,
        Case { server: Some(secure), ..right },
        Case { server: Some(six), ..only_six },
        Case::at("http://nowhere.example/".to_owned(), "pending dns_error"),
    ]
}

async fn on_loopback(canary: &Receiver) -> Vec<Case> {
    let mut cases = vec![
        Case::at(format!("http://127.0.0.1:{}/", free_port()), "pending connection_refused"),
        // Nothing may be sent in clear where TLS fails.
        Case::at(canary.url("/").replace("http://", "https://"), "pending tls_error"),
    ];
    for (name, told, manner) in bad_answers() {
        cases.push(Case::of(name, told, manner).await);
    }
    for (name, manner) in bad_bodies() {
        cases.push(Case::of(name, "delivered", manner).await);
    }
    for status in ["301", "302", "303", "307", "308"] {
        let manner =
            empty(&format!("{status} Elsewhere"), &format!("location: {}\r\n", canary.url("/internal")));
        cases.push(Case::of(status, "pending status_3xx", manner).await);
    }
    for (value, wait) in requests_for_time() {
        let name = format!("Retry-After: {}", value.escape_ascii());
        let headers = [b"content-length: 0\r\nretry-after: ", &value[..], b"\r\n"].concat();
        let case =
            Case::of(&name, "pending status_429", answer("429 Too Many Requests", &headers, b"")).await;
        cases.push(Case { wait, ..case });
    }
    cases
}

fn descriptors(worker: &Worker) -> usize {
    fs::read_dir(format!("/proc/{}/fd", worker.process.id())).unwrap().count()
}

/// What is wrong with the page of the case's deliveries.
fn wrong(case: &Case, page: &Value) -> Option<String> {
    let (delivery, attempt) = (&page["data"][0], &page["data"][0]["attempts"][0]);
    let texts = [&delivery["state"], &attempt["error_code"]].into_iter().filter_map(Value::as_str);
    let is_only = page["data"][1].is_null() && delivery["attempts"][1].is_null();
    // A client must not read what servers in a private network answer.
    let mut is_right =
        is_only && texts.collect::<Vec<_>>().join(" ") == case.told && attempt["response"].is_null();
    if is_right && delivery["state"] == "pending" {
        let time = |value: &Value| DateTime::parse_from_rfc3339(value.as_str().unwrap()).unwrap();
        let wait = (time(&delivery["next_attempt_at"]) - time(&attempt["at"])).as_seconds_f64();
        is_right = wait > case.wait - TOLERANCE && wait < case.wait * 1.1 + TOLERANCE;
    }
    (!is_right).then(|| format!("{}: {page}", case.name))
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_receivers_leave_nothing_behind_and_every_delivery_is_accounted_for() {
    let (db, canary, healthy) = (Db::fresh().await, Receiver::start().await, Receiver::start().await);
    let directory = tempfile::tempdir().unwrap();
    let trusted = directory.path().join("trusted.pem");
    let mut cases = named(&trusted).await;
    cases.extend(on_loopback(&canary).await);
    let nameserver = NameServer::start(|name, _| match name {
        "six.example" => NameAnswer::Addresses(vec!["::1".parse().unwrap()], 60),
        "right.example" | "wrong.example" => NameAnswer::Addresses(vec!["127.0.0.1".parse().unwrap()], 60),
        _ => NameAnswer::NoSuchName,
    })
    .await;
    let settings = [
        ("FOREMAN_WEBHOOK_RETRY_SCHEDULE", "1h"),
        ("FOREMAN_WEBHOOK_TIMEOUT", "2s"),
        ("FOREMAN_WEBHOOK_NAMESERVERS", nameserver.address()),
        ("SSL_CERT_FILE", trusted.to_str().unwrap()),
    ];
    let (worker, api) =
        tokio::join!(dispatcher(&db, &settings), Api::start(&db, &[("FOREMAN_AUTH", "required")]));
    let admin = db.store.create_client(&Seal::new(&[1; 32]), "admin", true).await.unwrap();
    // What a worker needs for its first webhooks, it keeps.
    db.accept_all(&(0..20).map(|_| job_to(&db, &healthy.url("/"))).collect::<Vec<NewJob>>()).await;
    logged(&db, 20).await;
    let (files, memory) = (descriptors(&worker), peak_memory(&worker));

    let jobs = cases.iter().map(|case| job_to(&db, &case.url)).collect::<Vec<NewJob>>();
    let jobs = db.accept_all(&jobs).await;
    logged(&db, 20 + cases.len()).await;
    let mut wrongs = Vec::new();
    for (case, job) in cases.iter().zip(jobs) {
        let asked = http().get(format!("{}/jobs/{job}/deliveries", api.url)).bearer_auth(&admin.key);
        let page = asked.send().await.unwrap().text().await.unwrap();
        wrongs.extend(wrong(case, &serde_json::from_str(&page).unwrap()));
    }
    assert!(wrongs.is_empty(), "{}", wrongs.join("\n"));
    assert_eq!(canary.count(), 0);

    let proven: Vec<String> = db.values("SELECT origin || '/' FROM webhook_lane WHERE healthy").await;
    let unproven = cases.iter().filter(|case| case.told == "delivered" && !proven.contains(&case.url));
    let unproven: Vec<&str> = unproven.map(|case| case.name.as_str()).collect();
    let why = "an answer that drips holds its seat for long, and so its lane gets one at a time";
    assert_eq!(unproven, ["drips its body", "a body that does not come"], "{why}");

    let servers = || cases.iter().filter_map(|case| Some((case, case.server.as_ref()?)));
    eventually("the end of every connection", async || {
        let open = servers().filter(|(_, server)| server.open() > 0);
        let names: Vec<&str> = open.map(|(case, _)| case.name.as_str()).collect();
        if names.is_empty() { Ok(()) } else { Err(names.join(", ")) }
    })
    .await;
    eventually("as few open files as before", async || {
        let now = descriptors(&worker);
        if now <= files + OTHER_FILES { Ok(()) } else { Err(format!("{now} after {files}")) }
    })
    .await;
    for (case, server) in servers().filter(|(case, _)| case.told == "delivered") {
        assert!(server.repeated() < TAKEN_AT_MOST, "{}: {} bytes were taken", case.name, server.repeated());
    }
    let grown = peak_memory(&worker) - memory;
    assert!(grown < 32, "it took {grown} MiB more");
    db.accept_all(&[job_to(&db, &healthy.url("/"))]).await;
    logged(&db, 21 + cases.len()).await;
    assert_eq!(healthy.count(), 21);
}
