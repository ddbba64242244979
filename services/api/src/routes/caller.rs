//! Lets the handlers of Foreman's own routes take a [`Caller`] as an argument. A request without a valid one gets a problem.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use crate::access::auth::Caller;
use crate::app::Shared;
use crate::http::problem::Problem;

impl FromRequestParts<Shared> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Shared) -> Result<Self, Problem> {
        Ok(app.auth.caller(parts).await?)
    }
}
