//! `/webhooks`: registered endpoints, which receive the webhooks of all jobs of their client.

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use foreman_store::{COUNTED_PENDING, EndpointHealth, EndpointView, LaneHealth};
use foreman_webhook::rfc3339;
use serde::Serialize;
use utoipa::ToSchema;

use super::show;
use crate::access::auth::Caller;
use crate::app::Shared;
use crate::describe::schema;
use crate::endpoints;
use crate::endpoints::fields::Fields;
use crate::http::path::EndpointPath;
use crate::http::query::{Parameters, cut_to_page};
use crate::http::{body, outgoing};
use crate::refusal::Refusal;

/// A registered endpoint.
#[derive(Serialize, ToSchema)]
pub(crate) struct Endpoint<'a> {
    /// Its ULID.
    endpoint_id: String,
    url: &'a str,
    description: &'a str,
    /// The states that are sent; `null` means all states.
    #[schema(value_type = Option<Vec<schema::State>>)]
    events: Option<Vec<&'static str>>,
    /// The models whose jobs are told of; `null` means all models.
    models: Option<&'a [String]>,
    /// The names of the headers that are sent along. Their values are never shown.
    header_names: &'a [String],
    /// Webhooks per second.
    rate_limit: Option<i32>,
    disabled: bool,
    /// `asked`: by its client; `gone`: it answered 410.
    disabled_because: Option<&'a str>,
    #[schema(format = DateTime)]
    disabled_at: Option<String>,
    /// The last characters of the secret.
    secret_hint: &'a str,
    /// Until then the secret from before the last rotation signs too.
    #[schema(format = DateTime)]
    previous_secret_until: Option<String>,
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(format = DateTime)]
    updated_at: String,
    /// `whsec_…`, only in the answer that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    secret: Option<&'a str>,
    /// How the endpoint answers. Lists and answers to changes leave this out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    health: Option<Health<'a>>,
}

/// How an endpoint answers, and what waits for it.
#[derive(Serialize, ToSchema)]
pub(crate) struct Health<'a> {
    /// `never_tried` (it has accepted no webhook yet, and fewer than three attempts in a row failed), `proven` (it takes
    /// webhooks), `failing` (the last three attempts failed), or `open`: it failed ten times in a row, so one webhook at a time
    /// tries it out, and no failure counts.
    state: &'static str,
    /// Until then nothing is sent there, because it asked for that or because it is open.
    #[schema(format = DateTime)]
    held_until: Option<String>,
    /// Why its last attempt failed.
    last_error: Option<&'a str>,
    /// Webhooks that have not ended, counted up to 1,000.
    #[schema(minimum = 0, maximum = 1000)]
    pending: i64,
    /// Since when the oldest of them is due.
    #[schema(format = DateTime)]
    oldest_due_at: Option<String>,
}

/// Registers an endpoint. Its secret is in this answer alone.
#[utoipa::path(
    post,
    path = "/webhooks",
    tag = "webhooks",
    request_body = schema::EndpointFields,
    responses(
        (status = 201, description = "The endpoint, with its secret.", body = Endpoint),
        (status = 400, description = "`invalid_json`, `repeated_key`, `unknown_field`, `url_missing`, or `invalid_` and the name of a field"),
        (status = 409, description = "`too_many_endpoints`"),
        (status = 422, description = "the URL may not be called"),
        (status = 503, description = "`no_secret_key`"),
    ),
)]
pub(crate) async fn create(
    caller: Caller,
    State(app): State<Shared>,
    body: Body,
) -> Result<Response, Refusal> {
    let read = body::read(&app, caller.client, body).await?;
    let made = endpoints::create(&app, &caller, Fields::parse(&read.bytes)?).await?;
    let json = show::json(&endpoint(&made.endpoint).with_secret(&made.secret));
    Ok(outgoing::small_json(StatusCode::CREATED, json))
}

/// Lists endpoints, newest first.
#[utoipa::path(
    get,
    path = "/webhooks",
    tag = "webhooks",
    params(
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 500, description = "Endpoints on the page; 50 if missing."),
        ("after" = Option<String>, Query, description = "The `last_id` of the page before."),
    ),
    responses(
        (status = 200, description = "A page.", body = show::Page<Endpoint>),
        (status = 429, description = "`too_many_reads`, `too_much_unread`"),
        (status = 503, description = "`busy`"),
    ),
)]
pub(crate) async fn list(
    caller: Caller,
    State(app): State<Shared>,
    parameters: Parameters,
) -> Result<Response, Refusal> {
    let after = parameters.read("after", "the `last_id` of the page before")?;
    let limit = parameters.page_size()?;
    let _permit = app.reads.page_permit(caller.client).await?;
    let mut found = app.store.endpoints(caller.scope(), after, limit + 1).await?;
    let has_more = cut_to_page(&mut found, limit);
    let last_id = found.last().map(|last| last.id.to_string());
    let page = show::Page::new(found.iter().map(endpoint).collect(), has_more, last_id);
    outgoing::json(&app, caller.client, StatusCode::OK, show::json(&page))
}

/// Shows an endpoint, and how it answers.
#[utoipa::path(
    get,
    path = "/webhooks/{id}",
    tag = "webhooks",
    params(("id" = String, Path, description = "The endpoint's ULID.")),
    responses(
        (status = 200, description = "The endpoint.", body = Endpoint),
        (status = 404, description = "`no_such_endpoint`"),
        (status = 429, description = "`too_many_reads`"),
        (status = 503, description = "`busy`"),
    ),
)]
pub(crate) async fn show(
    caller: Caller,
    EndpointPath(id): EndpointPath,
    State(app): State<Shared>,
) -> Result<Response, Refusal> {
    let _permit = app.reads.permit(caller.client).await?;
    let found = app.store.endpoint(caller.scope(), id).await?.ok_or_else(Refusal::no_such_endpoint)?;
    let measured = app.store.endpoint_health(id).await?;
    let json = show::json(&Endpoint { health: Some(health(&measured)), ..endpoint(&found) });
    Ok(outgoing::small_json(StatusCode::OK, json))
}

/// Changes those fields of an endpoint that are given. `headers` is replaced as a whole. A new URL counts as never tried.
#[utoipa::path(
    patch,
    path = "/webhooks/{id}",
    tag = "webhooks",
    params(("id" = String, Path, description = "The endpoint's ULID.")),
    request_body = schema::EndpointFields,
    responses(
        (status = 200, description = "The endpoint as it is now.", body = Endpoint),
        (status = 400, description = "`invalid_json`, `repeated_key`, `unknown_field`, or `invalid_` and the name of a field"),
        (status = 404, description = "`no_such_endpoint`"),
        (status = 422, description = "the URL may not be called"),
        (status = 503, description = "`no_secret_key`"),
    ),
)]
pub(crate) async fn change(
    caller: Caller,
    EndpointPath(id): EndpointPath,
    State(app): State<Shared>,
    body: Body,
) -> Result<Response, Refusal> {
    let read = body::read(&app, caller.client, body).await?;
    let changed = endpoints::change(&app, &caller, id, Fields::parse(&read.bytes)?).await?;
    Ok(outgoing::small_json(StatusCode::OK, show::json(&endpoint(&changed))))
}

/// Deletes an endpoint. A webhook that still waits for it ends as `endpoint_deleted` at the time of its next attempt.
#[utoipa::path(
    delete,
    path = "/webhooks/{id}",
    tag = "webhooks",
    params(("id" = String, Path, description = "The endpoint's ULID.")),
    responses(
        (status = 204, description = "It is gone."),
        (status = 404, description = "`no_such_endpoint`"),
    ),
)]
pub(crate) async fn delete(
    caller: Caller,
    EndpointPath(id): EndpointPath,
    State(app): State<Shared>,
) -> Result<Response, Refusal> {
    if app.store.delete_endpoint(caller.scope(), id).await? {
        Ok(StatusCode::NO_CONTENT.into_response())
    } else {
        Err(Refusal::no_such_endpoint())
    }
}

pub(super) fn endpoint(view: &EndpointView) -> Endpoint<'_> {
    let settings = &view.settings;
    Endpoint {
        endpoint_id: view.id.to_string(),
        url: &settings.url,
        description: &settings.description,
        events: settings.events.as_ref().map(|events| events.iter().map(|state| state.as_str()).collect()),
        models: settings.models.as_deref(),
        header_names: &view.header_names,
        rate_limit: settings.rate_limit,
        disabled: settings.is_disabled,
        disabled_because: view.disabled_because.as_deref(),
        disabled_at: view.disabled_at.map(rfc3339),
        secret_hint: &view.secret_hint,
        previous_secret_until: view.previous_until.map(rfc3339),
        created_at: rfc3339(view.created_at),
        updated_at: rfc3339(view.updated_at),
        secret: None,
        health: None,
    }
}

impl<'a> Endpoint<'a> {
    pub(super) fn with_secret(self, secret: &'a str) -> Self {
        Self { secret: Some(secret), ..self }
    }
}

fn health(health: &EndpointHealth) -> Health<'_> {
    Health {
        state: match health.lane {
            _ if health.is_open => "open",
            LaneHealth::NeverTried => "never_tried",
            LaneHealth::Proven => "proven",
            LaneHealth::Failing => "failing",
        },
        held_until: health.held_until.map(rfc3339),
        last_error: health.last_error.as_deref(),
        pending: health.pending.min(COUNTED_PENDING),
        oldest_due_at: health.oldest_due_at.map(rfc3339),
    }
}
