//! `/hosts`: the Ollama hosts, and which of them take jobs. For administrators.

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use foreman_store::{HostPlan, HostRow};
use foreman_webhook::rfc3339;
use serde::Serialize;
use utoipa::ToSchema;

use super::caller::Operator;
use super::show;
use crate::app::{App, Shared};
use crate::describe::schema;
use crate::http::path::HostPath;
use crate::http::{body, object, outgoing};
use crate::refusal::Refusal;

/// A refusal names at most this many hosts, so that its sentence stays one that people read.
const MOST_NAMED: usize = 8;

/// An Ollama host.
#[derive(Serialize, ToSchema)]
pub(crate) struct Host {
    /// The `FOREMAN_HOST_ID` of its workers.
    host_id: String,
    /// Where its worker reaches Ollama.
    url: String,
    /// The ULID of the live worker that holds it; `null` if nobody does.
    worker: Option<String>,
    /// Whether Ollama answered that worker.
    reachable: bool,
    /// How many requests may run there at the same time.
    #[schema(minimum = 1)]
    slots: i32,
    /// Jobs that load or work there.
    #[schema(minimum = 0)]
    running: i64,
    /// The models that are loaded, as far as its worker knows.
    resident: Vec<String>,
    /// The models that it has, as `/api/tags` names them.
    models: Vec<String>,
    /// Since when it takes no new jobs; `null` while it takes jobs.
    #[schema(format = DateTime)]
    drained_at: Option<String>,
}

/// Lists every host that a worker has ever held.
#[utoipa::path(
    get,
    path = "/hosts",
    tag = "hosts",
    responses(
        (status = 200, description = "All hosts by their ids, on one page.", body = show::Page<Host>),
        (status = 403, description = "`administrators_only`"),
    ),
)]
pub(crate) async fn list(Operator(_): Operator, State(app): State<Shared>) -> Result<Response, Refusal> {
    let hosts = read(&app).await?;
    let last_id = hosts.last().map(|host| host.host_id.clone());
    Ok(outgoing::small_json(StatusCode::OK, show::json(&show::Page::new(hosts, false, last_id))))
}

/// Lets a host take no new jobs. What runs there ends, and what its worker holds goes back to the queue. Jobs of models that
/// only this host has wait. Safe to repeat.
#[utoipa::path(
    post,
    path = "/hosts/{id}/drain",
    tag = "hosts",
    params(("id" = String, Path, description = "The host's id, with `/` written as `%2F`.")),
    request_body = Option<schema::NoFields>,
    responses(
        (status = 200, description = "The host. From this answer on nothing is claimed there.", body = Host),
        (status = 400, description = "`invalid_json`, `repeated_key`, `unknown_field`"),
        (status = 403, description = "`administrators_only`"),
        (status = 404, description = "`no_such_host`"),
    ),
)]
pub(crate) async fn drain(
    Operator(caller): Operator,
    HostPath(id): HostPath,
    State(app): State<Shared>,
    body: Body,
) -> Result<Response, Refusal> {
    let read = body::read(&app, caller.client, body).await?;
    object::optional_fields(&read.bytes, &[])?;
    let is_there = app.store.drain_host(&id).await?;
    tracing::info!(host = id, is_there, "an administrator drains a host");
    changed(&app, &id).await
}

/// Lets a drained host take jobs again. Safe to repeat.
#[utoipa::path(
    post,
    path = "/hosts/{id}/resume",
    tag = "hosts",
    params(("id" = String, Path, description = "The host's id, with `/` written as `%2F`.")),
    request_body = Option<schema::NoFields>,
    responses(
        (status = 200, description = "The host.", body = Host),
        (status = 400, description = "`invalid_json`, `repeated_key`, `unknown_field`"),
        (status = 403, description = "`administrators_only`"),
        (status = 404, description = "`no_such_host`"),
    ),
)]
pub(crate) async fn resume(
    Operator(caller): Operator,
    HostPath(id): HostPath,
    State(app): State<Shared>,
    body: Body,
) -> Result<Response, Refusal> {
    let read = body::read(&app, caller.client, body).await?;
    object::optional_fields(&read.bytes, &[])?;
    let is_there = app.store.resume_host(&id).await?;
    tracing::info!(host = id, is_there, "an administrator lets a host take jobs again");
    changed(&app, &id).await
}

/// The host after a change. If there is no such host, the refusal names those that there are.
async fn changed(app: &App, id: &str) -> Result<Response, Refusal> {
    let hosts = read(app).await?;
    match hosts.iter().find(|host| host.host_id == id) {
        Some(host) => Ok(outgoing::small_json(StatusCode::OK, show::json(host))),
        None => Err(no_such_host(&hosts)),
    }
}

async fn read(app: &App) -> Result<Vec<Host>, Refusal> {
    let (hosts, plans) = (app.store.hosts().await?, app.store.host_plans().await?);
    Ok(hosts.into_iter().map(|host| shown(app, host, &plans)).collect())
}

fn shown(app: &App, host: HostRow, plans: &[(String, HostPlan)]) -> Host {
    let plan = plans.iter().find(|(of, _)| *of == host.id).map(|(_, plan)| plan);
    Host {
        reachable: host.is_up(),
        worker: host.holder.map(|worker| worker.to_string()),
        slots: host.slots,
        running: host.running,
        resident: plan
            .into_iter()
            .flat_map(HostPlan::loaded)
            .map(|model| app.inventory.label(model))
            .collect(),
        models: host.models,
        drained_at: host.drained_at.map(rfc3339),
        url: host.url,
        host_id: host.id,
    }
}

fn no_such_host(hosts: &[Host]) -> Refusal {
    let named: Vec<_> = hosts.iter().take(MOST_NAMED).map(|host| host.host_id.as_str()).collect();
    let sentence = match (named.len(), hosts.len() - named.len()) {
        (0, _) => {
            "there is no such host, because no worker has held any yet; start a foreman-worker".to_owned()
        }
        (_, 0) => format!("there is no such host; there are {}", named.join(", ")),
        (_, more) => format!("there is no such host; there are {} and {more} more", named.join(", ")),
    };
    Refusal::new(StatusCode::NOT_FOUND, "no_such_host", sentence)
}
