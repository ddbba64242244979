//! Tests that a client which holds or asks for too much takes nothing from the other clients.

use foreman_store::{Completion, Exit, JobId};
use foreman_tests::{Api, Db, eventually};
use futures_util::future::join_all;
use reqwest::{Method, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{JOB, ask, header, json, problem, run, start};
use crate::metrics::exposition::Exposition;

/// A client with a key.
struct Client<'a> {
    api: &'a Api,
    key: String,
}

impl<'a> Client<'a> {
    async fn new(db: &Db, api: &'a Api, name: &str) -> Self {
        let key = db.new_client(name, false).await.key;
        Self { api, key }
    }

    async fn get(&self, path: &str) -> Response {
        ask(self.api, Method::GET, path).bearer_auth(&self.key).send().await.unwrap()
    }

    async fn follow(&self, job: JobId) -> Response {
        let request = ask(self.api, Method::GET, &format!("/jobs/{job}/events")).bearer_auth(&self.key);
        request.header("accept", "text/event-stream").send().await.unwrap()
    }

    /// Makes a done job of this client with a result of this many bytes.
    async fn job(&self, db: &Db, bytes: usize) -> JobId {
        let submitted = ask(self.api, Method::POST, "/jobs").bearer_auth(&self.key).body(JOB).send().await;
        let job = json(submitted.unwrap()).await["job_id"].as_str().unwrap().parse().unwrap();
        let completion = format!(r#"{{"text":"{}"}}"#, "x".repeat(bytes)).into_bytes();
        run(
            db,
            job,
            Exit::Done(Completion {
                completion,
                content_type: "application/json".to_owned(),
                prompt_tokens: None,
                completion_tokens: None,
            }),
        )
        .await;
        job
    }

    /// Sends a request and reads only the status. The rest of the answer waits in the api until the stream is dropped.
    async fn ask_and_not_read(&self, path: &str, accept: &str) -> (u16, TcpStream) {
        let address = self.api.url.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(address).await.unwrap();
        let (key, host) = (&self.key, address);
        let head = format!(
            "GET {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {key}\r\naccept: {accept}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut status = [0; 12];
        stream.read_exact(&mut status).await.unwrap();
        let status = std::str::from_utf8(&status[9..]).unwrap().parse().unwrap();
        (status, stream)
    }
}

const KEYS: &[(&str, &str)] = &[("FOREMAN_AUTH", "required")];

/// The size of an artifact that is larger than the buffers of a connection.
const LARGE: usize = 31 << 20;

async fn used(api: &Api, share: &str) -> f64 {
    Exposition::scrape(&api.ops_url).await.sum("foreman_share_used", &[("share", share)]).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn artifacts_that_nobody_reads_keep_no_other_client_from_its_own() {
    let (db, api) = start(KEYS).await;
    let (greedy, other) = (Client::new(&db, &api, "greedy").await, Client::new(&db, &api, "other").await);
    let (large, small) = (greedy.job(&db, LARGE).await, other.job(&db, 1 << 20).await);
    let path = format!("/jobs/{large}/artifacts/completion");
    let unread = join_all((0..20).map(|_| greedy.ask_and_not_read(&path, "*/*"))).await;
    let held = unread.iter().filter(|(status, _)| *status == 200).count();
    assert!((9..20).contains(&held), "{held} are under way");
    assert!(unread.iter().all(|(status, _)| [200, 429].contains(status)));
    assert!(used(&api, "outgoing").await <= (64 << 20) as f64, "a quarter, with two pieces for each");

    let refused = greedy.get(&path).await;
    assert!(!header(&refused, "retry-after").is_empty());
    assert_eq!(problem(refused, 429, "its part is used up").await, "too_much_unread");
    let others = other.get(&format!("/jobs/{small}/artifacts/completion")).await;
    assert_eq!((others.status().as_u16(), others.bytes().await.unwrap().len()), (200, (1 << 20) + 11));
    // A client that can read no other artifact can still look at its jobs and follow them.
    assert_eq!(greedy.get(&format!("/jobs/{large}")).await.status(), 200);
    let events = greedy.follow(large).await;
    assert_eq!(events.status(), 200);
    assert!(events.text().await.unwrap().contains("job.done"));

    drop(unread);
    eventually("room", async || {
        let used = used(&api, "outgoing").await;
        if used == 0.0 { Ok(()) } else { Err(used) }
    })
    .await;
    assert_eq!(greedy.get(&path).await.bytes().await.unwrap().len(), LARGE + 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_artifact_that_is_deleted_while_it_is_read_never_looks_complete() {
    let (db, api) = start(KEYS).await;
    let client = Client::new(&db, &api, "client").await;
    let job = client.job(&db, LARGE).await;
    let path = format!("/jobs/{job}/artifacts/completion");
    db.run("CREATE TABLE kept AS SELECT * FROM artifact").await;
    for range in ["bytes=0-", "bytes=5-30000000"] {
        let request = ask(&api, Method::GET, &path).bearer_auth(&client.key).header("range", range);
        let mut answer = request.send().await.unwrap();
        assert!(answer.chunk().await.unwrap().is_some());
        db.run("DELETE FROM artifact").await;
        let rest = answer.bytes().await;
        assert!(rest.is_err(), "{range}: {} bytes", rest.map_or(0, |rest| rest.len()));
        db.run("INSERT INTO artifact SELECT * FROM kept").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_and_streams_that_nobody_reads_are_refused_before_their_head() {
    let (db, api) = start(&[KEYS, &[("FOREMAN_ARTIFACT_INLINE_LIMIT", "16MiB")]].concat()).await;
    let (greedy, other) = (Client::new(&db, &api, "greedy").await, Client::new(&db, &api, "other").await);
    // It is in the answer twice, as `result` and as `data`, so the answer has 30 MiB.
    let (large, small) = (greedy.job(&db, 15 << 20).await, greedy.job(&db, 10).await);
    for (path, accept, at_once) in
        [(format!("/jobs/{large}"), "*/*", 2), (format!("/jobs/{large}/events"), "text/event-stream", 1)]
    {
        let mut unread = Vec::new();
        for _ in 0..at_once {
            unread.push(greedy.ask_and_not_read(&path, accept).await);
        }
        assert!(unread.iter().all(|(status, _)| *status == 200), "{path}");
        assert_eq!(greedy.ask_and_not_read(&path, accept).await.0, 429, "{path}");
        assert_eq!(greedy.get(&format!("/jobs/{small}")).await.status(), 200);
        let others = other.job(&db, 15 << 20).await;
        assert_eq!(other.get(&format!("/jobs/{others}")).await.status(), 200);
        assert_eq!(other.follow(others).await.status(), 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_reads_hang_keeps_no_other_client_from_the_database() {
    let (db, api) = start(KEYS).await;
    let (greedy, other) = (Client::new(&db, &api, "greedy").await, Client::new(&db, &api, "other").await);
    let (job, theirs) = (greedy.job(&db, 10).await, other.job(&db, 10).await);
    let mut lock = db.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE artifact IN ACCESS EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();
    let hanging = format!("/jobs/{job}");
    let hang = join_all((0..40).map(|_| greedy.get(&hanging)));
    let meanwhile = async {
        eventually("a quarter of the pool in use", async || {
            let used = used(&api, "reads").await;
            if used == 4.0 { Ok(()) } else { Err(used) }
        })
        .await;
        // This needs a first sign-in and a read, but no locked table.
        let newcomer = Client::new(&db, &api, "newcomer").await;
        assert_eq!(newcomer.get(&format!("/jobs/{theirs}/deliveries")).await.status(), 404);
        assert_eq!(other.get(&format!("/jobs/{theirs}/deliveries")).await.status(), 200);
        let submitted =
            ask(&api, Method::POST, "/jobs").bearer_auth(&other.key).body(JOB).send().await.unwrap();
        assert_eq!(submitted.status(), 202);
        eventually("refusals", async || {
            let labels = [("share", "reads"), ("short", "client")];
            let refused = Exposition::scrape(&api.ops_url).await.sum("foreman_share_refusals_total", &labels);
            if refused >= Some(36.0) { Ok(()) } else { Err(format!("{refused:?}")) }
        })
        .await;
        lock.rollback().await.unwrap();
    };
    let (answers, ()) = tokio::join!(hang, meanwhile);
    let refused: Vec<_> = answers.into_iter().filter(|answer| answer.status() == 429).collect();
    assert_eq!(refused.len(), 36, "the four that read are refused nothing");
    for answer in refused {
        assert!(!header(&answer, "retry-after").is_empty());
        assert_eq!(problem(answer, 429, "one too many").await, "too_many_reads");
    }
}
