//! The routes that Ollama has and Foreman does not offer. Each is refused with the reason, so that nothing reaches an Ollama
//! past the queue. A route that Ollama does not have either is not found, as there.

use axum::Router;
use axum::http::StatusCode;
use axum::routing::{delete, get, post};

use crate::access::auth::Caller;
use crate::app::Shared;
use crate::refusal::Refusal;

pub(super) fn table() -> Router<Shared> {
    Router::new()
        .route("/api/pull", post(models))
        .route("/api/push", post(models))
        .route("/api/create", post(models))
        .route("/api/copy", post(models))
        .route("/api/delete", delete(models))
        .route("/api/blobs/{digest}", post(models).head(models))
        .route("/api/me", post(account))
        .route("/api/status", get(account))
        .route("/api/signout", post(account))
        .route("/api/user/keys/{key}", delete(account))
        .route("/api/experimental/{what}", post(web))
        .route("/v1/audio/{*what}", post(media))
        .route("/v1/images/{*what}", post(media))
        .route("/v1/messages/count_tokens", post(count_tokens))
}

async fn models(_: Caller) -> Refusal {
    forbidden(
        "models_are_managed_on_hosts",
        "models are managed on the Ollama hosts, not through Foreman; ask the operator to do this there",
    )
}

async fn account(_: Caller) -> Refusal {
    forbidden("no_account", "Foreman has no account at ollama.com; use the Ollama host itself for this")
}

async fn web(_: Caller) -> Refusal {
    forbidden(
        "no_web_search",
        "Foreman does not search the web for its clients; use the Ollama host itself for this",
    )
}

async fn media(_: Caller) -> Refusal {
    forbidden(
        "not_queued",
        "Foreman has no queue for sound and pictures and lets nothing past the queue; use chat, with images in its messages",
    )
}

/// Ollama has no such route, and Anthropic's clients expect their own form.
async fn count_tokens(_: Caller) -> Refusal {
    Refusal::new(
        StatusCode::NOT_FOUND,
        "no_such_route",
        "tokens cannot be counted here, because Ollama cannot count them",
    )
}

fn forbidden(code: &'static str, sentence: &'static str) -> Refusal {
    Refusal::new(StatusCode::FORBIDDEN, code, sentence)
}
