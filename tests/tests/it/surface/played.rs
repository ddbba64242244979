//! A worker that a test plays for an api, with the Ollama behind it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use foreman_tests::Db;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;

/// A worker and its Ollama, as an api sees them.
#[derive(Clone)]
pub(super) struct Worker(Arc<Inner>);

struct Inner {
    address: SocketAddr,
    answers: BTreeMap<&'static str, Value>,
    seen: Mutex<Vec<(String, HeaderMap, Bytes)>>,
    /// While it is true, requests hang.
    hangs: watch::Sender<bool>,
    /// Requests that are being answered.
    under_way: watch::Sender<usize>,
}

impl Worker {
    /// Starts a worker of this host that answers so, and makes it known.
    pub(super) async fn start(db: &Db, host: &str, answers: &[(&'static str, Value)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let worker = Self(Arc::new(Inner {
            address: listener.local_addr().unwrap(),
            answers: answers.iter().cloned().collect(),
            seen: Mutex::default(),
            hangs: watch::Sender::new(false),
            under_way: watch::Sender::new(0),
        }));
        let router = Router::new().fallback(answer).with_state(worker.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        db.run(&format!(
            "INSERT INTO worker (id, host_id, roles, ttl, stream_url)
             VALUES (gen_random_uuid(), '{host}', '{{run}}', interval '20 s', 'http://{}')",
            worker.0.address
        ))
        .await;
        worker
    }

    pub(super) fn hang(&self, hangs: bool) {
        self.0.hangs.send_replace(hangs);
    }

    /// The requests for a path, each with its headers and its body.
    pub(super) fn seen(&self, path: &str) -> Vec<(HeaderMap, Value)> {
        let seen = self.0.seen.lock().unwrap();
        let of_path = seen.iter().filter(|(at, ..)| at == path);
        of_path
            .map(|(_, headers, body)| (headers.clone(), serde_json::from_slice(body).unwrap_or_default()))
            .collect()
    }

    pub(super) async fn under_way(&self, count: usize) {
        let mut under_way = self.0.under_way.subscribe();
        timeout(Duration::from_secs(30), under_way.wait_for(|now| *now == count)).await.unwrap().unwrap();
    }
}

struct UnderWay(Worker);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.0.under_way.send_modify(|count| *count -= 1);
    }
}

async fn answer(State(worker): State<Worker>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let path = head.uri.path().strip_prefix("/ollama").unwrap().to_owned();
    worker.0.under_way.send_modify(|count| *count += 1);
    let _under_way = UnderWay(worker.clone());
    worker.0.seen.lock().unwrap().push((path.clone(), head.headers, body));
    worker.0.hangs.subscribe().wait_for(|hangs| !hangs).await.unwrap();
    match worker.0.answers.get(&*path) {
        Some(answer) => answer.to_string().into_response(),
        None => (StatusCode::NOT_FOUND, json!({"error": format!("not found at {path}")}).to_string())
            .into_response(),
    }
}
