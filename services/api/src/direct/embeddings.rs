//! Embeddings, straight from a host that has the model. They are short, many run beside each other, and their answers stream
//! through: only their number is bounded, for each client and for all.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, post};
use foreman_ollama::{DirectBody, DirectRoute, Route, RunKind, SyncBodyError, no_embeddings};
use foreman_runtime::metrics::Metric;
use futures_util::StreamExt as _;
use metrics::counter;
use reqwest::Method;

use super::choice::hosts_for;
use super::{hosts, models};
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
    let DirectBody { model, payload, is_empty, unloads } =
        DirectBody::read(route, &read.bytes).map_err(|text| Refusal::bad_request("not_json", text))?;
    let mut choice = hosts_for(app, &model).await;
    let unloads = is_empty && unloads && !choice.hosts.is_empty();
    if unloads && choice.label.is_none() {
        return Err(SyncBodyError::model_not_found(RunKind::Embed, &model).into());
    }
    if let Some(route) = route.embedding() {
        let cannot_embed = !unloads && models::cannot_embed(app, &choice).await;
        if unloads || (cannot_embed && is_empty) {
            // The scheduler knows best when a model has to go, and a model that cannot embed is loaded by jobs alone.
            return Ok(as_ollama(route, StatusCode::OK.as_u16(), no_embeddings(route, &model)));
        }
        if cannot_embed {
            let (status, body) = foreman_ollama::cannot_embed(route);
            return Ok(as_ollama(route, status, body));
        }
    }
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

/// What Ollama would answer, without asking it.
fn as_ollama(route: Route, status: u16, body: String) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::NOT_IMPLEMENTED);
    let json = if route.is_native() { "application/json; charset=utf-8" } else { "application/json" };
    (status, [(header::CONTENT_TYPE, json)], body).into_response()
}
