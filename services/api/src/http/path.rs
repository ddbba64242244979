//! Reads ids and names from paths. A text that is not an id gets the same refusal as an id that does not exist.

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::request::Parts;
use foreman_ollama::ModelName;
use foreman_store::{DeliveryId, EndpointId, JobId};

use crate::http::observe;
use crate::refusal::Refusal;

/// The `{id}` of a job's route.
pub(crate) struct JobPath(pub(crate) JobId);

/// The `{id}` of a delivery's route.
pub(crate) struct DeliveryPath(pub(crate) DeliveryId);

/// The `{id}` of an endpoint's route.
pub(crate) struct EndpointPath(pub(crate) EndpointId);

/// The `{id}` of a host's route.
pub(crate) struct HostPath(pub(crate) String);

/// The `{model}` of a model's route.
pub(crate) struct ModelPath(pub(crate) ModelName);

/// The `{name}` of an artifact's route.
pub(crate) struct NamePath(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for JobPath {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let id = parameter(parts, state, "id").await.and_then(|id| id.parse().ok());
        let id = id.ok_or_else(Refusal::no_such_job)?;
        observe::is_about(id);
        Ok(Self(id))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for DeliveryPath {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let id = parameter(parts, state, "id").await.and_then(|id| id.parse().ok());
        Ok(Self(id.ok_or_else(Refusal::no_such_delivery)?))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for EndpointPath {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let id = parameter(parts, state, "id").await.and_then(|id| id.parse().ok());
        Ok(Self(id.ok_or_else(Refusal::no_such_endpoint)?))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for HostPath {
    type Rejection = Refusal;

    /// Any text may be the id of a host, but for one that is not UTF-8, or that Postgres cannot store. Such a text is read as
    /// an empty id, which no host has.
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let id = parameter(parts, state, "id").await.filter(|id| !id.contains('\0'));
        Ok(Self(id.unwrap_or_default()))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for ModelPath {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let name = parameter(parts, state, "model").await.unwrap_or_default();
        ModelName::parse(&name).map(Self).map_err(Refusal::no_model_name)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for NamePath {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let name = parameter(parts, state, "name").await.filter(|name| is_artifact_name(name));
        Ok(Self(name.ok_or_else(Refusal::no_such_artifact)?))
    }
}

/// Whether a name has the form of the names that Foreman gives. No other name exists, so we do not look for it.
fn is_artifact_name(name: &str) -> bool {
    name.len() <= 64 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

async fn parameter<S: Send + Sync>(parts: &mut Parts, state: &S, name: &str) -> Option<String> {
    let parameters = RawPathParams::from_request_parts(parts, state).await.ok()?;
    parameters.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
}
