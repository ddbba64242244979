//! What Ollama shows of one model, from a host that has it.

use std::collections::HashMap;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use foreman_ollama::{DirectBody, DirectRoute, OPENAI_MODELS};
use reqwest::Method;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;

use super::choice::{Choice, hosts_for};
use super::hosts;
use super::known::{Question, Shown};
use crate::access::auth::Caller;
use crate::app::{App, Shared};
use crate::http::body;
use crate::refusal::Refusal;

const TIMEOUT: Duration = Duration::from_secs(10);

pub(super) async fn show(caller: Caller, State(app): State<Shared>, body: Body) -> Result<Response, Refusal> {
    let read = body::read(&app, caller.client, body).await?;
    let DirectBody { model, payload, .. } = DirectBody::read(DirectRoute::Show, &read.bytes)
        .map_err(|text| Refusal::bad_request("not_json", text))?;
    answer(&app, Method::POST, DirectRoute::Show.path().to_owned(), &model, payload.into()).await
}

pub(super) async fn openai(_: Caller, State(app): State<Shared>, uri: Uri) -> Result<Response, Refusal> {
    let path = uri.path().to_owned();
    let id = path.strip_prefix(OPENAI_MODELS).unwrap_or_default().trim_start_matches('/');
    // A name with an escape is found on no host in particular, and then any host may answer.
    answer(&app, Method::GET, path.clone(), id, Bytes::new()).await
}

async fn answer(
    app: &App,
    method: Method,
    path: String,
    model: &str,
    body: Bytes,
) -> Result<Response, Refusal> {
    let question = (path, body);
    if let Some((content_type, body)) = app.direct.shown.get(&question).await {
        return Ok(response(StatusCode::OK, content_type, body));
    }
    let urls = hosts_for(app, model).await.hosts.concat();
    let (status, (content_type, body)) = ask(app, method, question, &urls).await?;
    Ok(response(status, content_type, body))
}

/// Asks workers for what their Ollama shows, and keeps a good answer.
async fn ask(
    app: &App,
    method: Method,
    question: Question,
    urls: &[String],
) -> Result<(StatusCode, Shown), Refusal> {
    let (path, body) = &question;
    let answer = hosts::pass_on(&app.workers, urls, method, path, body.clone(), TIMEOUT).await?;
    let (status, content_type) = (answer.status(), answer.headers().get(header::CONTENT_TYPE).cloned());
    let body = hosts::whole(answer).await.ok_or_else(|| {
        Refusal::unavailable(
            "answer_lost",
            "Ollama's answer broke off or was too large; try again in a moment",
        )
    })?;
    let shown = (content_type, body);
    if status == StatusCode::OK {
        app.direct.shown.insert(question, Shown::clone(&shown)).await;
    }
    Ok((status, shown))
}

/// Whether Ollama would refuse to embed with this model. It finds that out only after it has loaded the model, but shows it
/// before. `false` if that cannot be known.
pub(super) async fn cannot_embed(app: &App, choice: &Choice) -> bool {
    let Some(label) = choice.label.as_ref().filter(|_| choice.may_not_embed) else { return false };
    let body = json!({"model": label}).to_string().into();
    let question = (DirectRoute::Show.path().to_owned(), body);
    let shown = match app.direct.shown.get(&question).await {
        Some((_, shown)) => shown,
        None => match ask(app, Method::POST, question, &choice.hosts.concat()).await {
            Ok((StatusCode::OK, (_, shown))) => shown,
            Ok(_) | Err(_) => return false,
        },
    };
    serde_json::from_slice::<Abilities>(&shown).is_ok_and(|abilities| abilities.are_without_embedding())
}

/// What `/api/show` tells of a model's abilities.
#[derive(Deserialize)]
struct Abilities {
    capabilities: Option<Vec<String>>,
    model_info: Option<HashMap<String, IgnoredAny>>,
}

impl Abilities {
    /// Ollama embeds with exactly those models whose weights name a way of pooling.
    fn are_without_embedding(&self) -> bool {
        let can = |what| self.capabilities.as_ref().is_some_and(|all| all.iter().any(|one| one == what));
        let pools = self.model_info.iter().flat_map(HashMap::keys).any(|key| key.ends_with(".pooling_type"));
        can("completion") && !can("embedding") && !pools
    }
}

fn response(status: StatusCode, content_type: Option<header::HeaderValue>, body: Bytes) -> Response {
    let mut response = (status, body).into_response();
    match content_type {
        Some(content_type) => response.headers_mut().insert(header::CONTENT_TYPE, content_type),
        None => response.headers_mut().remove(header::CONTENT_TYPE),
    };
    response
}
