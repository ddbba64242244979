//! Lets handlers take a [`Caller`] or an [`Operator`] as an argument. A request without a valid one is refused.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use crate::access::auth::Caller;
use crate::app::Shared;
use crate::refusal::Refusal;

/// A caller that may change how the installation works.
pub(crate) struct Operator(pub(crate) Caller);

impl FromRequestParts<Shared> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &Shared) -> Result<Self, Refusal> {
        app.auth.caller(parts).await
    }
}

impl FromRequestParts<Shared> for Operator {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &Shared) -> Result<Self, Refusal> {
        let caller = app.auth.caller(parts).await?;
        if caller.may_operate() { Ok(Self(caller)) } else { Err(Refusal::administrators_only()) }
    }
}
