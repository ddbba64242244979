//! Reads bodies that are one small JSON object. The body of a job is none of them: `foreman_ollama` reads that one.

use serde_json::{Map, Value};

use super::values;
use crate::refusal::Refusal;

/// The body of a request, which must be a JSON object.
pub(crate) fn read(body: &[u8]) -> Result<Map<String, Value>, Refusal> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => Ok(object),
        _ => Err(Refusal::bad_request("invalid_json", "the body must be a JSON object")),
    }
}

/// The same for a request that needs no body.
pub(crate) fn read_optional(body: &[u8]) -> Result<Map<String, Value>, Refusal> {
    if body.is_empty() { Ok(Map::new()) } else { read(body) }
}

/// The same for Foreman's own routes, where the body must have no other fields than these.
pub(crate) fn optional_fields(body: &[u8], names: &[&str]) -> Result<Map<String, Value>, Refusal> {
    only(read_optional(body)?, names)
}

/// A misspelt field would otherwise be taken for one that is missing, and the request would do what nobody asked for.
pub(crate) fn only(body: Map<String, Value>, names: &[&str]) -> Result<Map<String, Value>, Refusal> {
    let Some(name) = body.keys().find(|name| !names.contains(&name.as_str())) else { return Ok(body) };
    let (name, known) = (values::excerpt(name), names.join(", "));
    let error = format!("the field {name:?} is unknown here; the body may have {known}");
    Err(Refusal::bad_request("unknown_field", error))
}
