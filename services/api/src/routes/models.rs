//! `/models/{model}/…`: what an operator asks of the scheduler for a model.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use foreman_ollama::{Route, SyncBody};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::Instant;
use utoipa::ToSchema;

use super::caller::Operator;
use super::{job, show};
use crate::app::Shared;
use crate::describe::schema;
use crate::http::path::ModelPath;
use crate::http::{body, object, observe, outgoing, values};
use crate::intake::Intake;
use crate::refusal::Refusal;

/// When to load a model. The body may be missing.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only its shape is used")]
pub(crate) struct Warming {
    /// Load it at this time; at once if this is missing.
    #[schema(required = false, format = DateTime)]
    run_at: Option<String>,
}

/// Has a model loaded, now or at a time. The load is a job of the caller: it waits for its turn as others do, it can be
/// followed and cancelled, and it ends when the model is loaded. A model that is loaded already is not loaded again.
#[utoipa::path(
    post,
    path = "/models/{model}/warm",
    tag = "hosts",
    params(
        ("model" = String, Path, description = "The model, with `/` written as `%2F`."),
        ("Idempotency-Key" = Option<String>, Header, max_length = 255, description = "For 24 hours, the same key with the same model and bytes gives the same job."),
    ),
    request_body = Option<Warming>,
    responses(
        (status = 202, description = "`job_id`: the job that loads the model.", body = Object,
         headers(("Location" = String, description = "The job."), ("Idempotency-Replayed" = String, description = "`true` for a job that was there before."))),
        (status = 400, description = "`invalid_json`, `repeated_key`, `unknown_field`, `invalid_run_at`, `model_only_embeds`, `invalid_idempotency_key`, `invalid_user`"),
        (status = 403, description = "`administrators_only`"),
        (status = 404, description = "`unknown_model`"),
        (status = 422, description = "`idempotency_key_reused`"),
        (status = 429, description = "`queue_full`"),
        (status = 503, description = "`no_inventory`, `not_accepted`, `acceptance_unknown`"),
    ),
)]
pub(crate) async fn warm(
    Operator(caller): Operator,
    ModelPath(model): ModelPath,
    State(app): State<Shared>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let read = body::read(&app, caller.client, body).await?;
    let run_at = match object::optional_fields(&read.bytes, &["run_at"])?.get("run_at") {
        None | Some(Value::Null) => None,
        Some(at) => Some(values::moment("run_at", "invalid_run_at", at.as_str())?),
    };
    // Ollama only loads the model of a chat without messages.
    let load = json!({ "model": model, "messages": [], "stream": false }).to_string();
    let load = SyncBody::read(Route::Chat, load.as_bytes())?;
    let intake = Intake::new(Shared::clone(&app), caller, headers)?;
    let accepted =
        intake.take_in_load(load, run_at, &read.bytes, Arc::new(read.held)).await?.accepted().await?;
    let id = accepted.job();
    observe::is_about(id);
    let mut response = job::queued(&app, id);
    job::tell_replayed(&mut response, &accepted);
    Ok(response)
}

/// A model that is to be unloaded.
#[derive(Serialize, ToSchema)]
pub(crate) struct Unloading {
    /// As `/api/tags` names it.
    model: String,
    /// The hosts that were asked: all that have the model, whether it is loaded there or not. Empty for a model of Ollama's
    /// cloud, which no host ever loads.
    hosts: Vec<String>,
}

/// Has a model unloaded on every host that has it. What runs of it ends first, and none of its other jobs begins there until it is
/// unloaded. Then the next of them loads it again. A host that is away unloads it when it is back. Safe to repeat.
#[utoipa::path(
    post,
    path = "/models/{model}/unload",
    tag = "hosts",
    params(("model" = String, Path, description = "The model, with `/` written as `%2F`.")),
    request_body = Option<schema::NoFields>,
    responses(
        (status = 202, description = "The hosts are asked.", body = Unloading),
        (status = 400, description = "`invalid_json`, `repeated_key`, `unknown_field`"),
        (status = 403, description = "`administrators_only`"),
        (status = 404, description = "`unknown_model`"),
        (status = 503, description = "`no_inventory`"),
    ),
)]
pub(crate) async fn unload(
    Operator(caller): Operator,
    ModelPath(name): ModelPath,
    State(app): State<Shared>,
    body: Body,
) -> Result<Response, Refusal> {
    let read = body::read(&app, caller.client, body).await?;
    object::optional_fields(&read.bytes, &[])?;
    let known = app.inventory.find_any(&name, Instant::now()).await?;
    let is_cloud = name.is_cloud();
    let hosts = if is_cloud { Vec::new() } else { app.store.ask_for_unload(name.as_str()).await? };
    if hosts.is_empty() && !is_cloud {
        // The last host that had it has lost it a moment ago.
        return Err(Refusal::unknown_model(name.as_str()));
    }
    tracing::info!(model = %name, ?hosts, "an administrator has a model unloaded");
    let unloading = Unloading { model: known.label, hosts };
    Ok(outgoing::small_json(StatusCode::ACCEPTED, show::json(&unloading)))
}
