//! What Ollama answers without a job: its listings, what it shows of a model, and embeddings. An api asks the workers for it, and
//! each worker asks its own Ollama.
//!
//! Must never let anything through that runs a model, except one that embeds.

mod choice;
mod embeddings;
mod entries;
mod hosts;
mod kept;
pub(crate) mod known;
mod listings;
mod models;

use axum::Router;
use axum::routing::{get, post};
use foreman_ollama::DirectRoute;
use foreman_runtime::metrics::Metric;

use crate::app::Shared;
use crate::config::Embeddings;

pub(crate) const METRICS: &[Metric] = &[embeddings::EMBEDDINGS];

pub(crate) fn table(embeddings: Embeddings) -> Router<Shared> {
    let table = Router::new()
        .route("/api/tags", get(listings::tags))
        .route("/api/ps", get(listings::ps))
        .route("/v1/models", get(listings::openai))
        .route("/api/version", get(listings::own_version))
        .route("/v1/models/{id}", get(models::openai))
        .route(DirectRoute::Show.path(), post(models::show));
    match embeddings {
        Embeddings::Queued => table,
        Embeddings::Direct => [DirectRoute::Embed, DirectRoute::Embeddings, DirectRoute::OpenAiEmbeddings]
            .into_iter()
            .fold(table, |table, route| table.route(route.path(), embeddings::on(route))),
    }
}
