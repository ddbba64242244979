//! Requests that try to get around the queue or to hold the api up: each gets one clear refusal in the form of its surface, and
//! Ollama sees nothing but jobs.

use std::collections::BTreeSet;

use foreman_tests::eventually;
use ollama_sim::Kind;
use reqwest::Body;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{House, http};

const ROUTES: [&str; 3] = ["/api/chat", "/v1/chat/completions", "/v1/messages"];

impl House {
    async fn raw(&self, path: &str, body: impl Into<Body>) -> (u16, Value) {
        let answer = http().post(format!("{}{path}", self.api.url)).body(body).send().await.unwrap();
        let status = answer.status().as_u16();
        let text = answer.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or_else(|_| panic!("{status}: {text}")))
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.api.url.strip_prefix("http://").unwrap()).await.unwrap()
    }

    async fn jobs(&self) -> i64 {
        self.db.value("SELECT count(*) FROM job").await
    }

    /// Every model that Ollama was asked to run or load is the model of a job, and no more ran than there are jobs.
    async fn ollama_saw_only_jobs(&self) {
        let models: Vec<String> = self.db.values("SELECT DISTINCT model_label FROM job").await;
        let models: BTreeSet<String> = models.into_iter().collect();
        let log = self.sim.log();
        let runs = log.records.iter().filter(|record| record.kind == Kind::Run).count();
        assert!(i64::try_from(runs).unwrap() <= self.jobs().await, "{runs} runs");
        for record in &log.records {
            assert!(models.contains(&record.model), "{record:?} of {models:?}");
        }
    }
}

/// The sentence of a refusal, which must have the form of its surface.
fn sentence(path: &str, refusal: &Value) -> String {
    let sentence = if path.starts_with("/api/") { &refusal["error"] } else { &refusal["error"]["message"] };
    assert_eq!(refusal["type"] == "error", path == "/v1/messages", "{refusal}");
    sentence.as_str().unwrap_or_else(|| panic!("{path}: {refusal}")).to_owned()
}

fn messages(model: &str) -> Value {
    json!({"model": model, "max_tokens": 9, "stream": false, "messages": [{"role": "user", "content": "x"}]})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_names_one_model_for_the_queue_and_for_ollama() {
    let house = House::start(&[], &[]).await;
    let rest = r#""max_tokens":9,"stream":false,"messages":[{"role":"user","content":"x"}]"#;
    let far = "x".repeat(31 << 20);
    for path in ROUTES {
        let bodies = [
            format!(r#"{{"model":"tiny-b","MODEL":"tiny-a",{rest}}}"#),
            format!(r#"{{"model":"tiny-b",{rest},"mod\u0065l":"tiny-a"}}"#),
            format!(r#"{{"model":"tiny-b",{rest},"model":"tiny-a"}}{{"model":"tiny-tools"}}"#),
            format!(r#"{{"options":{{"model":"tiny-tools"}},"model":"tiny-b",{rest},"model":"tiny-a"}}"#),
            format!(r#"{{"model":"tiny-b",{rest},"far":"{far}","Model":"tiny-a"}}"#),
        ];
        for body in bodies {
            let shown: String = body.chars().take(99).collect();
            let (status, answer) = house.raw(path, body).await;
            assert_eq!(status, 200, "{path} {shown}: {answer}");
            let model = answer["model"].as_str().unwrap();
            assert!(model.starts_with("tiny-a"), "{path} {shown}: {answer}");
        }
    }
    let models: Vec<String> = house.db.values("SELECT DISTINCT model_label FROM job").await;
    assert_eq!(models, ["tiny-a:latest"]);
    house.ollama_saw_only_jobs().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_a_call_is_refused_and_never_reaches_ollama() {
    let house = House::start(&[("FOREMAN_MAX_BODY", "1MiB")], &[]).await;
    for path in ROUTES {
        let deep = format!(r#"{{"model":"tiny-a","x":{}{}}}"#, "[".repeat(10_001), "]".repeat(10_001));
        let large = messages(&"x".repeat(2 << 20)).to_string();
        for (body, expected, text) in [
            (deep.into_bytes(), 400, "exceeded max depth"),
            (large.into_bytes(), 413, "bytes"),
            (br#"{"model":"tiny-a","stream":"yes"}"#.to_vec(), 400, "cannot unmarshal string"),
            (b"{\"model\":\"tiny-a\0\"}".to_vec(), 400, "in string literal"),
            (b"\0".to_vec(), 400, "looking for beginning of value"),
            (br#"{"model":"tiny-a","messages":[{"role":"#.to_vec(), 400, "unexpected EOF"),
        ] {
            let (status, refusal) = house.raw(path, body).await;
            let sentence = sentence(path, &refusal);
            assert_eq!(status, expected, "{path}: {sentence}");
            assert!(sentence.contains(text), "{path}: {sentence}");
        }
    }
    assert_eq!(house.jobs().await, 0);
    assert_eq!(house.sim.log().records.len(), 0);
}

fn head(path: &str, length: usize, more: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {length}\r\nconnection: close\r\n{more}\r\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_ends_in_the_middle_becomes_no_job() {
    let house = House::start(&[], &[]).await;
    for path in ROUTES {
        let body = messages("tiny-a").to_string();
        let mut stream = house.connect().await;
        stream.write_all(head(path, body.len() + 1, "").as_bytes()).await.unwrap();
        stream.write_all(body.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        // The api may answer, or close the connection.
        _ = stream.read_to_string(&mut answer).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    let (status, _) = house.raw("/api/chat", messages("tiny-a").to_string()).await;
    assert_eq!((status, house.jobs().await), (200, 1));
    house.ollama_saw_only_jobs().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_drips_holds_nobody_up_and_counts_when_it_is_whole() {
    let house = House::start(&[], &[]).await;
    let body = messages("tiny-a").to_string();
    let (first, rest) = body.split_at(body.len() / 2);
    let mut stream = house.connect().await;
    stream.write_all(head("/api/chat", body.len(), "").as_bytes()).await.unwrap();
    for byte in first.as_bytes() {
        stream.write_all(&[*byte]).await.unwrap();
        stream.flush().await.unwrap();
    }
    let (status, _) = house.raw("/api/chat", body.clone()).await;
    assert_eq!((status, house.jobs().await), (200, 1), "the other body is not whole");
    stream.write_all(rest.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(house.jobs().await, 2);
    house.ollama_saw_only_jobs().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_asks_before_it_sends_is_told_to_go_on() {
    let house = House::start(&[], &[]).await;
    let body = messages("tiny-a").to_string();
    let mut stream = house.connect().await;
    let expects = head("/api/chat", body.len(), "expect: 100-continue\r\n");
    stream.write_all(expects.as_bytes()).await.unwrap();
    let mut told = vec![0; "HTTP/1.1 100 Continue\r\n\r\n".len()];
    stream.read_exact(&mut told).await.unwrap();
    assert!(told.starts_with(b"HTTP/1.1 100 "), "{}", String::from_utf8_lossy(&told));
    assert_eq!(house.jobs().await, 0);
    stream.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("HTTP/1.1 200"), "{answer}");
    eventually("the end of the job", async || {
        let done: i64 = house.db.value("SELECT count(*) FROM job_done WHERE state = 'done'").await;
        if done == 1 { Ok(()) } else { Err("it runs") }
    })
    .await;
    house.ollama_saw_only_jobs().await;
}
