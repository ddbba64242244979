//! The stream address: HTTP for apis, and for nobody else. Its paths and frames are those of `foreman_live`.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use foreman_live::{ANNOUNCEMENTS, ANSWERS, ATTEMPT_HEADER, Announcement, Bearer, ENDPOINTS, HEARTBEAT};
use foreman_ollama::Client;
use foreman_runtime::http::{self, Limits};
use foreman_runtime::{Shutdown, background_error};
use foreman_store::{ApiId, EndpointId, JobId, JobState};
use futures_util::stream;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::direct;
use super::live::LiveAnswers;
use crate::webhooks::dispatcher::example::{Examples, Unsent};

/// An api has one connection for each call that it follows, and one for announcements.
const LIMITS: Limits = Limits {
    connections: 8_192,
    head: Duration::from_secs(10),
    idle: Duration::from_secs(90),
    stalled: Duration::from_secs(60),
};

/// How long readers have for the ends of the last answers when the grace of the process is nearly over.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Serves the stream address until no attempt is left. The soft token does not end it: until then callers read the answers of
/// attempts that may finish, and apis hear of attempts that begin.
pub(crate) async fn serve(
    listener: TcpListener,
    live: LiveAnswers,
    ollama: Client,
    examples: Option<Arc<Examples>>,
    bearer: Option<Bearer>,
    hard: CancellationToken,
) {
    // The server gets a stop of its own.
    let shutdown = Shutdown::new();
    let routes = routes(live.clone(), ollama, examples, bearer);
    let stops = async {
        live.closed().await;
        shutdown.stop();
        hard.cancelled().await;
        sleep(LAST_WORDS).await;
        shutdown.hard().cancel();
        // Now the server ends by itself.
        pending::<()>().await;
    };
    tokio::select! {
        () = http::serve("stream", listener, routes, LIMITS, &shutdown) => {}
        () = stops => {}
    }
}

/// The routes of the stream address. Without a bearer everybody who reaches the address may ask, so it is on loopback then.
fn routes(
    live: LiveAnswers,
    ollama: Client,
    examples: Option<Arc<Examples>>,
    bearer: Option<Bearer>,
) -> Router {
    let examples = examples.map_or_else(Router::new, |examples| {
        Router::new().route(&format!("{ENDPOINTS}/{{id}}/example"), post(example)).with_state(examples)
    });
    Router::new()
        .route(ANNOUNCEMENTS, get(announcements))
        .route(&format!("{ANSWERS}/{{job}}"), get(answer))
        .with_state(live)
        .merge(direct::routes(ollama))
        .merge(examples)
        .layer(from_fn_with_state(Arc::new(bearer), check))
}

async fn check(State(bearer): State<Arc<Option<Bearer>>>, request: Request, next: Next) -> Response {
    let header =
        request.headers().get(header::AUTHORIZATION).map(|value| value.as_bytes()).unwrap_or_default();
    match &*bearer {
        Some(bearer) if !bearer.is(header) => {
            let error = "api and worker must have the same FOREMAN_SECRET_KEY";
            (StatusCode::UNAUTHORIZED, error).into_response()
        }
        _ => next.run(request).await,
    }
}

#[derive(Deserialize)]
struct Asker {
    api: String,
}

async fn announcements(State(live): State<LiveAnswers>, Query(asker): Query<Asker>) -> Response {
    let Ok(api) = asker.api.parse::<ApiId>() else { return StatusCode::BAD_REQUEST.into_response() };
    let lines = stream::unfold(live.listen(api), |mut receiver| async {
        let line = match timeout(HEARTBEAT, receiver.recv()).await {
            Ok(announcement) => line(&announcement?),
            Err(_elapsed) => Bytes::from_static(b"\n"),
        };
        Some((Ok::<_, Infallible>(line), receiver))
    });
    Body::from_stream(lines).into_response()
}

fn line(announcement: &Announcement) -> Bytes {
    let mut line = serde_json::to_vec(announcement).expect("a text and a number always serialise");
    line.push(b'\n');
    line.into()
}

#[derive(Deserialize)]
struct From {
    attempt: Option<i32>,
    #[serde(default)]
    from: u64,
}

async fn answer(
    State(live): State<LiveAnswers>,
    Path(job): Path<String>,
    Query(From { attempt, from }): Query<From>,
) -> Response {
    let Ok(job) = job.parse::<JobId>() else { return StatusCode::NOT_FOUND.into_response() };
    let Some((attempt, reader)) = live.follow(job, attempt, from) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let frames = stream::unfold(reader, |mut reader| async { Some((reader.next().await?, reader)) });
    ([(ATTEMPT_HEADER, attempt.to_string())], Body::from_stream(frames)).into_response()
}

#[derive(Deserialize)]
struct Of {
    state: String,
}

async fn example(
    State(examples): State<Arc<Examples>>,
    Path(endpoint): Path<String>,
    Query(Of { state }): Query<Of>,
) -> Response {
    let (Ok(endpoint), Ok(state)) = (endpoint.parse::<EndpointId>(), state.parse::<JobState>()) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    match examples.send(endpoint, state).await {
        Ok(sent) => serde_json::to_vec(&sent).expect("texts and numbers always serialise").into_response(),
        Err(unsent) => {
            let text = unsent.to_string();
            if let Unsent::Store(error) = unsent {
                background_error!("examples", error);
            }
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
    }
}
