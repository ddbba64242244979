//! `GET /jobs/{id}/deliveries` and `POST /deliveries/{id}/redeliver`.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use foreman_store::{DELIVERIES_PER_EVENT_AND_MINUTE, DeliveryFilter, Redelivery};
use serde_json::json;

use super::show;
use crate::access::auth::Caller;
use crate::app::Shared;
use crate::describe::schema;
use crate::http::outgoing;
use crate::http::path::{DeliveryPath, JobPath};
use crate::http::query::Parameters;
use crate::refusal::Refusal;

/// Lists the webhooks of a job in the order of its events, with every attempt.
#[utoipa::path(
    get,
    path = "/jobs/{id}/deliveries",
    tag = "webhooks",
    params(
        ("id" = String, Path, description = "The job's ULID."),
        ("status" = Option<schema::DeliveryState>, Query, description = "Only deliveries in this state."),
        ("since" = Option<String>, Query, format = DateTime, description = "Only deliveries made since then (RFC 3339)."),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 500, description = "Deliveries on the page; 50 if missing."),
        ("after" = Option<String>, Query, description = "The `last_id` of the page before."),
    ),
    responses(
        (status = 200, description = "A page.", body = show::Page<show::Delivery>),
        (status = 404, description = "`no_such_job`"),
        (status = 429, description = "`too_many_reads`, `too_much_unread`"),
        (status = 503, description = "`busy`"),
    ),
)]
pub(crate) async fn list(
    caller: Caller,
    JobPath(id): JobPath,
    State(app): State<Shared>,
    parameters: Parameters,
) -> Result<Response, Refusal> {
    let filter = filter(&parameters)?;
    let limit = parameters.page_size()?;
    let _permit = app.reads.page_permit(caller.client).await?;
    let page = app.store.deliveries(caller.scope(), id, &filter, limit).await?;
    let page = show::deliveries(&page.ok_or_else(Refusal::no_such_job)?);
    outgoing::json(&app, caller.client, StatusCode::OK, page)
}

/// Which deliveries the request wants.
pub(super) fn filter(parameters: &Parameters) -> Result<DeliveryFilter, Refusal> {
    Ok(DeliveryFilter {
        state: parameters.read("status", "`pending`, `delivered` or `failed`")?,
        since: parameters.moment("since")?,
        after: parameters.read("after", "the `last_id` of the page before")?,
    })
}

/// Sends a webhook again, or at once if it still waits. It waits all the same while the receiver has asked for time, while the
/// `rate_limit` of the endpoint is used up, and while the endpoint is disabled.
#[utoipa::path(
    post,
    path = "/deliveries/{id}/redeliver",
    tag = "webhooks",
    params(("id" = String, Path, description = "The delivery's ULID.")),
    responses(
        (status = 202, description = "The delivery that is due now: a new one for a webhook that had ended.", body = schema::DeliveryRef),
        (status = 404, description = "`no_such_delivery`"),
        (status = 409, description = "`being_sent`, `endpoint_deleted`"),
        (status = 429, description = "`redelivered_too_often`: this webhook, or webhooks of this client at all; `too_many_reads`"),
        (status = 503, description = "`busy`"),
    ),
)]
pub(crate) async fn redeliver(
    caller: Caller,
    DeliveryPath(id): DeliveryPath,
    State(app): State<Shared>,
) -> Result<Response, Refusal> {
    app.redeliveries.count(caller.client)?;
    let _permit = app.reads.permit(caller.client).await?;
    match app.store.redeliver(caller.scope(), id).await? {
        Redelivery::Due(due) => {
            Ok(outgoing::small_json(StatusCode::ACCEPTED, show::json(&json!({ "delivery_id": due }))))
        }
        Redelivery::BeingSent => {
            let error = "the delivery is being sent at this moment; look again when it has ended";
            Err(Refusal::conflict("being_sent", error))
        }
        Redelivery::TooSoon => {
            let error = format!(
                "this webhook went to its receiver {DELIVERIES_PER_EVENT_AND_MINUTE} times within a minute; wait for a minute"
            );
            Err(Refusal::too_many("redelivered_too_often", error).retry_after(Duration::from_secs(60)))
        }
        Redelivery::ReceiverDeleted => {
            let error = "the endpoint of this delivery was deleted; make one with POST /webhooks, and send it what it missed with \
                         POST /webhooks/{id}/recover";
            Err(Refusal::conflict("endpoint_deleted", error))
        }
        Redelivery::Missing => Err(Refusal::no_such_delivery()),
    }
}
