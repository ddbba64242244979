//! `GET /jobs/{id}/deliveries` and `POST /deliveries/{id}/redeliver`.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use foreman_store::{Redelivery, wake::Topic};
use serde_json::json;

use crate::answer;
use crate::app::Shared;
use crate::auth::Caller;
use crate::path::{DeliveryPath, JobPath};
use crate::problem::Problem;
use crate::show;

pub(super) async fn list(
    caller: Caller,
    JobPath(id): JobPath,
    State(app): State<Shared>,
) -> Result<Response, Problem> {
    let deliveries = app.store.deliveries(caller.scope(), id).await?.ok_or_else(Problem::no_such_job)?;
    Ok(answer::json(StatusCode::OK, show::deliveries(&deliveries)))
}

pub(super) async fn redeliver(
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
