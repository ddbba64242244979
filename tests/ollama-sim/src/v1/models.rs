//! `/v1/models`: the models on disk, as OpenAI lists them.

use chrono::DateTime;
use hyper::Response;
use serde_json::{Value, json};

use super::error;
use crate::go_json;
use crate::http::{self, Body};
use crate::model::{self, Model};

pub(crate) fn list(models: &[Model]) -> Response<Body> {
    let data: Vec<_> =
        model::newest_first(models).into_iter().map(|model| entry(&model.name, model)).collect();
    http::json_line(200, go_json::marshal(&json!({"object": "list", "data": data})))
}

/// One model under the name that the client wrote, or Ollama's refusal of this name.
pub(crate) fn one(name: &str, found: Result<&Model, (u16, String)>) -> Response<Body> {
    match found {
        Ok(model) => http::json_line(200, go_json::marshal(&entry(name, model))),
        Err((status, text)) => error(status, &text),
    }
}

fn entry(name: &str, model: &Model) -> Value {
    let created = DateTime::parse_from_rfc3339(&model.modified_at).map_or(0, |time| time.timestamp());
    let owner = model.name.rsplit_once('/').map_or("library", |(owner, _)| owner);
    json!({"id": name, "object": "model", "created": created, "owned_by": owner})
}
