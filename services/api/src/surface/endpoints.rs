//! Registered endpoints in the shapes of OpenAI's clients (`client.webhooks`). They are the same rows as `/webhooks`; what
//! OpenAI has no field for stays as it is there.

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use foreman_store::{EndpointView, JobState};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::access::auth::Caller;
use crate::app::Shared;
use crate::endpoints::fields::{self, Fields};
use crate::endpoints::{self, OVERLAP, example};
use crate::http::path::EndpointPath;
use crate::http::query::{Parameters, cut_to_page};
use crate::http::{body, object, outgoing, values};
use crate::refusal::Refusal;

const DEFAULT_PAGE: usize = 20;
const LARGEST_PAGE: usize = 100;

/// The events that an endpoint of ours can tell of have these names before the state.
const PREFIX: &str = "job.";

pub(super) fn table() -> Router<Shared> {
    Router::new()
        .route("/v1/webhook_endpoints", get(list).post(create))
        .route("/v1/webhook_endpoints/{id}", get(show).post(update).delete(delete))
        .route("/v1/webhook_endpoints/{id}/rotate_secret", post(rotate_secret))
        .route("/v1/webhook_endpoints/{id}/test", post(test))
        .route("/v1/webhook_event_types", get(event_types))
}

#[derive(Serialize)]
struct Endpoint<'a> {
    id: String,
    object: &'static str,
    /// Seconds since 1970, as all times here.
    created_at: i64,
    updated_at: i64,
    name: &'a str,
    url: &'a str,
    event_types: Vec<String>,
    signing_secret_hint: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    signing_secret: Option<&'a str>,
}

#[derive(Serialize)]
struct List<'a> {
    object: &'static str,
    data: Vec<Endpoint<'a>>,
    first_id: Option<String>,
    last_id: Option<String>,
    has_more: bool,
}

async fn create(caller: Caller, State(app): State<Shared>, body: Body) -> Result<Response, Refusal> {
    let read = body::read(&app, caller.client, body).await?;
    let given = object::read(&read.bytes)?;
    for name in ["name", "url", "event_types"] {
        if given.get(name).is_none_or(Value::is_null) {
            let error = format!("Missing required parameter: '{name}'.");
            return Err(Refusal::bad_request("missing_required_parameter", error));
        }
    }
    let made = endpoints::create(&app, &caller, parse(&given)?).await?;
    Ok(answer(&Endpoint { signing_secret: Some(&made.secret), ..endpoint(&made.endpoint) }))
}

async fn list(
    caller: Caller,
    State(app): State<Shared>,
    parameters: Parameters,
) -> Result<Response, Refusal> {
    let after = parameters.read("after", "the id of the last endpoint of the page before")?;
    let limit = parameters.page_size_within(DEFAULT_PAGE, LARGEST_PAGE)?;
    let _permit = app.reads.page_permit(caller.client).await?;
    let mut found = app.store.endpoints(caller.scope(), after, limit + 1).await?;
    let has_more = cut_to_page(&mut found, limit);
    let id = |view: Option<&EndpointView>| view.map(|view| view.id.to_string());
    let (first_id, last_id) = (id(found.first()), id(found.last()));
    let data = found.iter().map(endpoint).collect();
    Ok(answer(&List { object: "list", data, first_id, last_id, has_more }))
}

async fn show(
    caller: Caller,
    EndpointPath(id): EndpointPath,
    State(app): State<Shared>,
) -> Result<Response, Refusal> {
    let _permit = app.reads.permit(caller.client).await?;
    let found = app.store.endpoint(caller.scope(), id).await?.ok_or_else(Refusal::no_such_endpoint)?;
    Ok(answer(&endpoint(&found)))
}

async fn update(
    caller: Caller,
    EndpointPath(id): EndpointPath,
    State(app): State<Shared>,
    body: Body,
) -> Result<Response, Refusal> {
    let read = body::read(&app, caller.client, body).await?;
    let given = object::read(&read.bytes)?;
    let changed = endpoints::change(&app, &caller, id, parse(&given)?).await?;
    Ok(answer(&endpoint(&changed)))
}

async fn delete(
    caller: Caller,
    EndpointPath(id): EndpointPath,
    State(app): State<Shared>,
) -> Result<Response, Refusal> {
    if !app.store.delete_endpoint(caller.scope(), id).await? {
        return Err(Refusal::no_such_endpoint());
    }
    let id = id.to_string();
    Ok(answer(&json!({ "id": id, "object": "webhook_endpoint.deleted", "deleted": true })))
}

async fn rotate_secret(
    caller: Caller,
    EndpointPath(id): EndpointPath,
    State(app): State<Shared>,
    body: Body,
) -> Result<Response, Refusal> {
    let read = body::read(&app, caller.client, body).await?;
    let keep = match object::read_optional(&read.bytes)?.get("keep_old_secret_active_for_24_hours") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(keep)) => *keep,
        Some(_) => {
            let error = "`keep_old_secret_active_for_24_hours` must be true or false";
            return Err(Refusal::bad_request("invalid_overlap", error));
        }
    };
    let overlap = if keep { OVERLAP } else { std::time::Duration::ZERO };
    let rotated = endpoints::rotate(&app, caller.scope(), id, overlap).await?;
    Ok(answer(&Endpoint { signing_secret: Some(&rotated.secret), ..endpoint(&rotated.endpoint) }))
}

/// Answers with the receiver's status. A receiver that gave none is an error, as the answer has no other place for it.
async fn test(
    caller: Caller,
    EndpointPath(id): EndpointPath,
    State(app): State<Shared>,
    body: Body,
) -> Result<Response, Refusal> {
    let read = body::read(&app, caller.client, body).await?;
    let given = object::read_optional(&read.bytes)?;
    let event = given.get("event_type").and_then(Value::as_str).unwrap_or_default();
    let state = event.strip_prefix(PREFIX).and_then(|state| state.parse().ok()).ok_or_else(event_refused)?;
    let sent = example::send(&app, &caller, id, state).await?;
    let Some(status) = sent.status else {
        let code = sent.error_code.unwrap_or_default();
        let error =
            format!("the endpoint gave no answer ({code}); look whether something listens at its URL");
        return Err(Refusal::unprocessable("endpoint_unanswered", error));
    };
    Ok(answer(&json!({
        "object": "webhook_endpoint.test",
        "webhook_endpoint_id": id.to_string(),
        "event_type": event,
        "status_code": status,
        "success": true,
    })))
}

async fn event_types(_: Caller) -> Response {
    answer(&json!({ "object": "list", "data": names(&JobState::ALL) }))
}

/// Reads the fields that OpenAI's clients send. Others are ignored, as there.
fn parse(given: &Map<String, Value>) -> Result<Fields, Refusal> {
    let some = |name| given.get(name).filter(|value| !value.is_null());
    let events = some("event_types").map(|types| {
        let names = fields::texts(types).into_iter().flatten();
        values::states(names.map(|name| name.strip_prefix(PREFIX).unwrap_or(""))).ok_or_else(event_refused)
    });
    Ok(Fields {
        url: some("url").map(fields::url).transpose()?,
        description: some("name").map(|name| fields::description("name", name)).transpose()?,
        // An endpoint for all events shows all of them, and the other way round.
        events: events.transpose()?.map(|events| (events.len() < JobState::ALL.len()).then_some(events)),
        ..Fields::default()
    })
}

fn event_refused() -> Refusal {
    let error = format!("the events here are {}; name some of them", names(&JobState::ALL).join(", "));
    Refusal::bad_request("invalid_event_type", error)
}

fn names(states: &[JobState]) -> Vec<String> {
    states.iter().map(|state| format!("{PREFIX}{state}")).collect()
}

fn endpoint(view: &EndpointView) -> Endpoint<'_> {
    let settings = &view.settings;
    Endpoint {
        id: view.id.to_string(),
        object: "webhook_endpoint",
        created_at: view.created_at.timestamp(),
        updated_at: view.updated_at.timestamp(),
        name: &settings.description,
        url: &settings.url,
        event_types: names(settings.events.as_deref().unwrap_or(&JobState::ALL)),
        signing_secret_hint: format!("whsec_…{}", view.secret_hint),
        signing_secret: None,
    }
}

fn answer(body: &impl Serialize) -> Response {
    let json = serde_json::to_vec(body).expect("texts and numbers always serialise");
    outgoing::small_json(StatusCode::OK, json)
}
