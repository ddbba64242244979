//! Lets handlers take a [`Caller`] as an argument. A request without a valid one is refused.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use crate::access::auth::Caller;
use crate::app::Shared;
use crate::refusal::Refusal;

impl FromRequestParts<Shared> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &Shared) -> Result<Self, Refusal> {
        app.auth.caller(parts).await
    }
}
