//! Embeddings, straight from a host that has the model. They are short, many run beside each other, and their answers stream
//! through: only their number is bounded, for each client and for all.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::Response;
use axum::routing::{MethodRouter, post};
use foreman_ollama::{DirectBody, DirectRoute};
use foreman_runtime::metrics::Metric;
use futures_util::StreamExt as _;
use metrics::counter;
use reqwest::Method;

use super::choice::hosts_for;
use super::hosts;
use crate::access::auth::Caller;
use crate::app::{App, Shared};
use crate::http::{body, outgoing};
use crate::refusal::Refusal;

pub(super) const EMBEDDINGS: Metric = Metric::labelled_counter(
    "foreman_embeddings_total",
    "Requests for embeddings that were passed on past the queue, by model.",
);

/// As long as a job may run by default (`FOREMAN_RUN_TIMEOUT`).
const LONGEST: Duration = Duration::from_secs(3_600);

pub(super) fn on(route: DirectRoute) -> MethodRouter<Shared> {
    post(move |caller: Caller, State(app): State<Shared>, body: Body| async move {
        run(&app, caller, route, body).await
    })
}

async fn run(app: &App, caller: Caller, route: DirectRoute, body: Body) -> Result<Response, Refusal> {
    let permit = app.direct.embeddings.take(caller.client, 1)?;
    let read = body::read(app, caller.client, body).await?;
    let DirectBody { model, payload } =
        DirectBody::read(route, &read.bytes).map_err(|text| Refusal::bad_request("not_json", text))?;
    let mut choice = hosts_for(app, &model).await;
    if !choice.hosts.is_empty() {
        let turn = app.direct.turn.fetch_add(1, Ordering::Relaxed) % choice.hosts.len();
        choice.hosts.rotate_left(turn);
    }
    if let Some(model) = choice.label {
        counter!(EMBEDDINGS.name, "model" => model).increment(1);
    }
    // Dropping this future, or the body below, hangs up on the worker, and the worker on its Ollama.
    let answer = hosts::pass_on(
        &app.workers,
        &choice.hosts.concat(),
        Method::POST,
        route.path(),
        payload.into(),
        LONGEST,
    )
    .await?;
    let mut response = Response::builder().status(answer.status());
    for name in [header::CONTENT_TYPE, header::CONTENT_LENGTH] {
        if let Some(value) = answer.headers().get(&name) {
            response = response.header(name, value);
        }
    }
    let pieces = answer.bytes_stream().map(move |piece| {
        // The permit is given back with the end of the stream.
        let _under_way = &permit;
        piece.map_err(io::Error::other)
    });
    Ok(response.body(outgoing::body(pieces)).expect("the headers were those of an answer"))
}
