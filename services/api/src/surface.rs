//! The forms in which Foreman speaks. Each path belongs to one surface: to Foreman's own routes, or to those that clients of
//! Ollama, of OpenAI and of Anthropic call. A refusal takes the form of the surface of its path, whoever made the refusal.

mod endpoints;
mod error;
mod form;
mod refused;
mod sync;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::post;

use foreman_ollama::Route;

use crate::app::Shared;
use crate::config::Embeddings;
use crate::http::observe::REQUEST_ID;
use crate::refusal::Refusal;

/// Anthropic's client reads the id of a request from this header.
const ANTHROPIC_REQUEST_ID: HeaderName = HeaderName::from_static("request-id");

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Surface {
    /// Foreman's own routes.
    Native,
    /// `/api/…`.
    Ollama,
    /// `/v1/…`, except what is Anthropic's.
    OpenAi,
    /// `/v1/messages`, and what is below it.
    Anthropic,
}

impl Surface {
    /// The surface that a path belongs to, whether there is such a route or not.
    pub(crate) fn of(path: &str) -> Self {
        match path {
            "/v1/messages" => Self::Anthropic,
            _ if path.starts_with("/v1/messages/") => Self::Anthropic,
            _ if path.starts_with("/v1/") => Self::OpenAi,
            _ if path.starts_with("/api/") => Self::Ollama,
            _ => Self::Native,
        }
    }
}

/// The routes of all surfaces but Foreman's own. They are not in Foreman's description: Ollama, OpenAI and Anthropic describe
/// them, and their clients know them.
pub(crate) fn table(embeddings: Embeddings) -> Router<Shared> {
    let is_queued = |route: &Route| embeddings == Embeddings::Queued || !route.embeds();
    let queued = Route::ALL.into_iter().filter(is_queued);
    queued.fold(refused::table().merge(endpoints::table()), |table, route| {
        table.route(route.path(), post(sync::call))
    })
}

/// A layer around everything that may refuse. It writes the refusal of a request in the form of the request's surface.
pub(crate) async fn speak(request: Request, next: Next) -> Response {
    let surface = Surface::of(request.uri().path());
    let mut response = next.run(request).await;
    let request_id = response.headers().get(REQUEST_ID).cloned();
    if let Some(refusal) = response.extensions_mut().remove::<Refusal>() {
        let (content_type, body) = error::write(surface, &refusal, request_id.as_ref());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        // It is the length of the body that the refusal did not have yet.
        headers.remove(header::CONTENT_LENGTH);
        *response.body_mut() = Body::from(body);
    }
    if let (Surface::Anthropic, Some(id)) = (surface, request_id) {
        response.headers_mut().insert(ANTHROPIC_REQUEST_ID, id);
    }
    response
}

/// The answer to a path without a route.
pub(crate) fn no_such_route(uri: &Uri) -> Response {
    match Surface::of(uri.path()) {
        Surface::Native => {
            let error = "there is no such route; jobs are submitted with POST /jobs";
            Refusal::new(StatusCode::NOT_FOUND, "no_such_route", error).into_response()
        }
        _ => as_ollama(StatusCode::NOT_FOUND, "404 page not found"),
    }
}

/// The answer to a route that does not have the request's method. The `Allow` header is added by the router.
pub(crate) fn wrong_method(uri: &Uri) -> Response {
    match Surface::of(uri.path()) {
        Surface::Native => {
            let error = "this route has no such method; the Allow header lists those it has";
            Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", error).into_response()
        }
        _ => as_ollama(StatusCode::METHOD_NOT_ALLOWED, "405 method not allowed"),
    }
}

/// Ollama answers so on all its routes, those of `/v1` included.
fn as_ollama(status: StatusCode, text: &'static str) -> Response {
    (status, [(header::CONTENT_TYPE, "text/plain")], text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_belongs_to_one_surface() {
        for (path, surface) in [
            ("/", Surface::Native),
            ("/jobs", Surface::Native),
            ("/api", Surface::Native),
            ("/v1", Surface::Native),
            ("/apis/chat", Surface::Native),
            ("/api/chat", Surface::Ollama),
            ("/api/nothing", Surface::Ollama),
            ("/v1/chat/completions", Surface::OpenAi),
            ("/v1/webhook_endpoints", Surface::OpenAi),
            ("/v1/messages_of_others", Surface::OpenAi),
            ("/v1/messages", Surface::Anthropic),
            ("/v1/messages/count_tokens", Surface::Anthropic),
        ] {
            assert_eq!(Surface::of(path), surface, "{path}");
        }
    }
}
