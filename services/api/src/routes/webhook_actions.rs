//! `/webhooks/{id}/…`: a new secret, an example, what an endpoint has missed, and its deliveries.

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use foreman_store::{EndpointDelivery, JobState};
use foreman_webhook::rfc3339;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{show, webhooks};
use crate::access::auth::Caller;
use crate::app::Shared;
use crate::describe::schema;
use crate::endpoints::{self, MAX_OVERLAP, OVERLAP, example};
use crate::http::path::EndpointPath;
use crate::http::query::{Parameters, cut_to_page};
use crate::http::{body, object, outgoing, values};
use crate::refusal::Refusal;

/// How to rotate a secret. The body may be missing.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only its shape is used")]
pub(crate) struct Rotation {
    /// How long the old secret signs too, in seconds; a day if this is missing, 0 to end it at once.
    #[schema(required = false, minimum = 0, maximum = 604_800)]
    overlap_seconds: Option<u32>,
}

/// Which example to send. The body may be missing.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only its shape is used")]
pub(crate) struct Example {
    /// The event to send an example of; `done` if this is missing.
    #[schema(required = false, value_type = Option<schema::State>)]
    event: Option<String>,
}

/// From when on to look for what the endpoint has not got.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only its shape is used")]
pub(crate) struct Recovery {
    #[schema(format = DateTime)]
    since: String,
}

/// What came of an example.
#[derive(Serialize, ToSchema)]
pub(crate) struct ExampleAnswer {
    /// Whether the receiver answered with 2xx.
    delivered: bool,
    /// The status of the receiver's answer, if it answered.
    status: Option<u16>,
    error_code: Option<String>,
    latency_ms: u64,
    /// The first bytes of the receiver's answer, if it has a public address.
    response: Option<String>,
}

/// One webhook to an endpoint.
#[derive(Serialize, ToSchema)]
pub(crate) struct DeliveryToEndpoint<'a> {
    /// Its ULID.
    delivery_id: String,
    /// The job's ULID.
    job_id: String,
    #[schema(minimum = 1)]
    seq: i32,
    /// `job.` and the state.
    r#type: String,
    #[schema(value_type = schema::DeliveryState)]
    state: &'static str,
    /// How many attempts there were, the present one included.
    #[schema(minimum = 0)]
    attempts: i16,
    #[schema(format = DateTime)]
    next_attempt_at: Option<String>,
    #[schema(format = DateTime)]
    last_attempt_at: Option<String>,
    /// The status of the last attempt's answer.
    status: Option<i16>,
    /// Why the last attempt failed.
    error_code: Option<&'a str>,
}

/// Gives an endpoint a new secret. For a while webhooks carry the signatures of both. A second rotation within that time ends
/// the secret from before the first one at once.
#[utoipa::path(
    post,
    path = "/webhooks/{id}/rotate",
    tag = "webhooks",
    params(("id" = String, Path, description = "The endpoint's ULID.")),
    request_body = Option<Rotation>,
    responses(
        (status = 200, description = "The endpoint, with its new secret.", body = webhooks::Endpoint),
        (status = 400, description = "`invalid_json`, `repeated_key`, `unknown_field`, `invalid_overlap`"),
        (status = 404, description = "`no_such_endpoint`"),
        (status = 503, description = "`no_secret_key`"),
    ),
)]
pub(crate) async fn rotate(
    caller: Caller,
    EndpointPath(id): EndpointPath,
    State(app): State<Shared>,
    body: Body,
) -> Result<Response, Refusal> {
    let read = body::read(&app, caller.client, body).await?;
    let overlap = match object::optional_fields(&read.bytes, &["overlap_seconds"])?.get("overlap_seconds") {
        None | Some(Value::Null) => OVERLAP,
        Some(seconds) => {
            let overlap = seconds.as_u64().map(Duration::from_secs).filter(|overlap| *overlap <= MAX_OVERLAP);
            overlap.ok_or_else(|| {
                let most = MAX_OVERLAP.as_secs();
                let error = format!("`overlap_seconds` must be a whole number from 0 to {most}");
                Refusal::bad_request("invalid_overlap", error)
            })?
        }
    };
    let rotated = endpoints::rotate(&app, caller.scope(), id, overlap).await?;
    let json = show::json(&webhooks::endpoint(&rotated.endpoint).with_secret(&rotated.secret));
    Ok(outgoing::small_json(StatusCode::OK, json))
}

/// Sends a signed example, and waits for the receiver's answer. The example is about no job: its `metadata` is
/// `{"example": true}`.
#[utoipa::path(
    post,
    path = "/webhooks/{id}/test",
    tag = "webhooks",
    params(("id" = String, Path, description = "The endpoint's ULID.")),
    request_body = Option<Example>,
    responses(
        (status = 200, description = "What came of it.", body = ExampleAnswer),
        (status = 400, description = "`invalid_json`, `repeated_key`, `unknown_field`, `invalid_event`"),
        (status = 404, description = "`no_such_endpoint`"),
        (status = 429, description = "`too_many_examples`"),
        (status = 503, description = "`no_sender`, `example_unsent`, `example_unanswered`"),
    ),
)]
pub(crate) async fn test(
    caller: Caller,
    EndpointPath(id): EndpointPath,
    State(app): State<Shared>,
    body: Body,
) -> Result<Response, Refusal> {
    let read = body::read(&app, caller.client, body).await?;
    let state = match object::optional_fields(&read.bytes, &["event"])?.get("event") {
        None | Some(Value::Null) => JobState::Done,
        Some(name) => name.as_str().and_then(|name| name.parse().ok()).ok_or_else(|| {
            let error = format!("`event` must be one of {}", values::state_names());
            Refusal::bad_request("invalid_event", error)
        })?,
    };
    let sent = example::send(&app, &caller, id, state).await?;
    let answer = ExampleAnswer {
        delivered: sent.error_code.is_none(),
        status: sent.status,
        error_code: sent.error_code,
        latency_ms: sent.latency_ms,
        response: sent.response,
    };
    Ok(outgoing::small_json(StatusCode::OK, show::json(&answer)))
}

/// Sends what failed or was missed since a moment, in order. What is on its way already is not doubled.
#[utoipa::path(
    post,
    path = "/webhooks/{id}/recover",
    tag = "webhooks",
    params(("id" = String, Path, description = "The endpoint's ULID.")),
    request_body = Recovery,
    responses(
        (status = 200, description = "`recovered`: how many webhooks wait now because of this.", body = Object),
        (status = 400, description = "`invalid_json`, `repeated_key`, `unknown_field`, `invalid_since`"),
        (status = 404, description = "`no_such_endpoint`"),
        (status = 429, description = "`too_many_reads`"),
    ),
)]
pub(crate) async fn recover(
    caller: Caller,
    EndpointPath(id): EndpointPath,
    State(app): State<Shared>,
    body: Body,
) -> Result<Response, Refusal> {
    let read = body::read(&app, caller.client, body).await?;
    let given = object::optional_fields(&read.bytes, &["since"])?;
    let Some(since) = given.get("since").filter(|since| !since.is_null()) else {
        let error =
            "`since` is missing; it says from when on to look, as in {\"since\": \"2027-01-31T08:00:00Z\"}";
        return Err(Refusal::bad_request("invalid_since", error));
    };
    let since = values::moment("since", "invalid_since", since.as_str())?;
    let recovered = endpoints::recover(&app, &caller, id, since).await?;
    Ok(outgoing::small_json(StatusCode::OK, show::json(&json!({ "recovered": recovered }))))
}

/// Lists the webhooks to an endpoint, newest first.
#[utoipa::path(
    get,
    path = "/webhooks/{id}/deliveries",
    tag = "webhooks",
    params(
        ("id" = String, Path, description = "The endpoint's ULID."),
        ("status" = Option<schema::DeliveryState>, Query, description = "Only deliveries in this state."),
        ("since" = Option<String>, Query, format = DateTime, description = "Only deliveries made since then (RFC 3339)."),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 500, description = "Deliveries on the page; 50 if missing."),
        ("after" = Option<String>, Query, description = "The `last_id` of the page before."),
    ),
    responses(
        (status = 200, description = "A page.", body = show::Page<DeliveryToEndpoint>),
        (status = 404, description = "`no_such_endpoint`"),
        (status = 429, description = "`too_many_reads`, `too_much_unread`"),
        (status = 503, description = "`busy`"),
    ),
)]
pub(crate) async fn deliveries(
    caller: Caller,
    EndpointPath(id): EndpointPath,
    State(app): State<Shared>,
    parameters: Parameters,
) -> Result<Response, Refusal> {
    let filter = super::deliveries::filter(&parameters)?;
    let limit = parameters.page_size()?;
    let _permit = app.reads.page_permit(caller.client).await?;
    let found = app.store.endpoint_deliveries(caller.scope(), id, &filter, limit + 1).await?;
    let mut found = found.ok_or_else(Refusal::no_such_endpoint)?;
    let has_more = cut_to_page(&mut found, limit);
    let last_id = found.last().map(|last| last.id.to_string());
    let page = show::Page::new(found.iter().map(delivery).collect(), has_more, last_id);
    outgoing::json(&app, caller.client, StatusCode::OK, show::json(&page))
}

fn delivery(view: &EndpointDelivery) -> DeliveryToEndpoint<'_> {
    DeliveryToEndpoint {
        delivery_id: view.id.to_string(),
        job_id: view.job.to_string(),
        seq: view.seq,
        r#type: format!("job.{}", view.event),
        state: view.state.as_str(),
        attempts: view.attempts,
        next_attempt_at: view.next_attempt_at.map(rfc3339),
        last_attempt_at: view.last_attempt_at.map(rfc3339),
        status: view.status,
        error_code: view.error_code.as_deref(),
    }
}
