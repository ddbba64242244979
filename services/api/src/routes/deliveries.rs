//! `GET /jobs/{id}/deliveries` and `POST /deliveries/{id}/redeliver`.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use foreman_store::{Redelivery, wake::Topic};
use serde_json::json;

use crate::answer;
use crate::app::Shared;
use crate::auth::Caller;
use crate::describe::schema;
use crate::path::{DeliveryPath, JobPath};
use crate::problem::Problem;
use crate::show;

/// Lists the webhooks of a job, with every attempt.
#[utoipa::path(
    get,
    path = "/jobs/{id}/deliveries",
    tag = "webhooks",
    params(("id" = String, Path, description = "The job's ULID.")),
    responses(
        (status = 200, description = "All of them.", body = show::Page<show::Delivery>),
        (status = 404, description = "`no_such_job`"),
    ),
)]
pub(crate) async fn list(
    caller: Caller,
    JobPath(id): JobPath,
    State(app): State<Shared>,
) -> Result<Response, Problem> {
    let deliveries = app.store.deliveries(caller.scope(), id).await?.ok_or_else(Problem::no_such_job)?;
    Ok(answer::json(StatusCode::OK, show::deliveries(&deliveries)))
}

/// Sends a webhook again, or one that waits at once.
#[utoipa::path(
    post,
    path = "/deliveries/{id}/redeliver",
    tag = "webhooks",
    params(("id" = String, Path, description = "The delivery's ULID.")),
    responses(
        (status = 202, description = "The delivery that is due now: a new one for a webhook that had ended.", body = schema::DeliveryRef),
        (status = 404, description = "`no_such_delivery`"),
        (status = 409, description = "`being_sent`"),
    ),
)]
pub(crate) async fn redeliver(
    caller: Caller,
    DeliveryPath(id): DeliveryPath,
    State(app): State<Shared>,
) -> Result<Response, Problem> {
    match app.store.redeliver(caller.scope(), id).await? {
        Redelivery::Due(due) => {
            app.wakeups.tell(Topic::Delivery);
            Ok(answer::json(StatusCode::ACCEPTED, show::json(&json!({ "delivery_id": due }))))
        }
        Redelivery::BeingSent => {
            let error = "the delivery is being sent at this moment; look again when it has ended";
            Err(Problem::conflict("being_sent", error))
        }
        Redelivery::Missing => Err(Problem::no_such_delivery()),
    }
}
