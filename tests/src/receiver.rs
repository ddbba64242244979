//! An independent receiver of webhooks. It knows nothing of Foreman. It stores every request unchanged, in the order
//! of arrival, and answers as the test tells it.

use std::{
    convert::Infallible,
    net::Ipv4Addr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::Response,
};
use chrono::{DateTime, Utc};
use futures_util::{StreamExt, future, stream};
use serde_json::{Map, Value, json};
use tokio::{net::TcpListener, task::JoinHandle, time};

/// One request, as it arrived.
#[derive(Debug, Clone)]
pub struct Received {
    pub method: Method,
    /// With the query.
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// When the request had arrived, to check the time between retries.
    pub at: DateTime<Utc>,
}

impl Received {
    /// A header as text; empty if it is missing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("our headers are ASCII"))
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("a webhook is JSON")
    }

    /// The headers and the body as texts, for a script that verifies them.
    pub fn as_texts(&self) -> Value {
        let headers = self.headers.keys().map(|name| (name.to_string(), self.header(name.as_str()).into()));
        let headers: Map<String, Value> = headers.collect();
        json!({"headers": headers, "body": std::str::from_utf8(&self.body).expect("a webhook is text")})
    }
}

/// How the receiver answers a request.
#[derive(Debug, Clone)]
pub enum ReceiverAnswer {
    /// This status with an empty body.
    Status(u16),
    /// This status with one more header.
    With(u16, &'static str, String),
    /// This status after this delay.
    Late(Duration, u16),
    /// Never an answer.
    Hang,
    /// Status 200, then a body that never ends, with one byte per this duration.
    Drip(Duration),
    /// A redirect to this location.
    Redirect(String),
    /// The receiver cuts the connection instead of answering.
    Reset,
}

type Script = dyn Fn(&Received, usize) -> ReceiverAnswer + Send + Sync;

/// A server on loopback. Dropping the value ends it.
#[derive(Debug)]
pub struct Receiver {
    url: String,
    received: Arc<Mutex<Vec<Received>>>,
    server: JoinHandle<()>,
}

#[derive(Clone)]
struct Desk {
    received: Arc<Mutex<Vec<Received>>>,
    script: Arc<Script>,
}

impl Receiver {
    /// A receiver that answers everything with 200.
    pub async fn start() -> Self {
        Self::answering(|_, _| ReceiverAnswer::Status(200)).await
    }

    /// A receiver that answers as `script` decides. The script gets each request, and how many came before it.
    pub async fn answering(
        script: impl Fn(&Received, usize) -> ReceiverAnswer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let received = Arc::new(Mutex::new(Vec::new()));
        let desk = Desk { received: Arc::clone(&received), script: Arc::new(script) };
        let unlimited = DefaultBodyLimit::disable();
        let router = Router::new().fallback(receive).layer(unlimited).with_state(desk);
        let server = tokio::spawn(async move {
            axum::serve(listener, router).await.expect("axum serves until it is dropped");
        });
        Self { url: format!("http://{address}"), received, server }
    }

    /// The URL of this path.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    /// All requests so far, in the order of arrival.
    pub fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many requests have come.
    pub fn count(&self) -> usize {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn receive(
    State(desk): State<Desk>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let request = Received { method, path: uri.to_string(), headers, body, at: Utc::now() };
    let answer = {
        let mut received = desk.received.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = (desk.script)(&request, received.len());
        received.push(request);
        answer
    };
    match answer {
        ReceiverAnswer::Status(status) => respond(status, Body::empty()),
        ReceiverAnswer::With(status, name, value) => {
            let mut response = respond(status, Body::empty());
            response.headers_mut().insert(name, value.parse().expect("the test gives a header's value"));
            response
        }
        ReceiverAnswer::Late(delay, status) => {
            time::sleep(delay).await;
            respond(status, Body::empty())
        }
        ReceiverAnswer::Hang => future::pending().await,
        ReceiverAnswer::Drip(pause) => {
            let bytes = stream::repeat(pause)
                .then(time::sleep)
                .map(|()| Ok::<_, Infallible>(Bytes::from_static(b".")));
            respond(200, Body::from_stream(bytes))
        }
        ReceiverAnswer::Redirect(location) => {
            let mut response = respond(307, Body::empty());
            response.headers_mut().insert(header::LOCATION, location.parse().expect("the test gives a URL"));
            response
        }
        ReceiverAnswer::Reset => {
            let cut = stream::once(future::ready(Err::<Bytes, _>(std::io::Error::other("the test cuts it"))));
            respond(200, Body::from_stream(cut))
        }
    }
}

fn respond(status: u16, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).expect("the test gives a status");
    response
}
