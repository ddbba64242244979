//! The routes of `/v1`: what OpenAI's clients and Anthropic's ask of an Ollama.

pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod embeddings;
mod fields;
pub(crate) mod messages;
pub(crate) mod models;
pub(crate) mod responses;

use hyper::Response;
use serde_json::{Value, json};

pub(crate) use self::fields::Fields;

use crate::go_json;
use crate::http::{self, Body};
use crate::request::Think;
use crate::voice::End;

/// An error in OpenAI's form.
pub(crate) fn error(status: u16, text: &str) -> Response<Body> {
    http::json_line(status, error_body(status, text))
}

/// The refusal of a body that could not be translated.
pub(crate) fn unreadable(text: &str) -> Response<Body> {
    http::json_with(400, error_body(400, text))
}

fn error_body(status: u16, text: &str) -> String {
    let kind = match status {
        400 => "invalid_request_error",
        404 => "not_found_error",
        _ => "api_error",
    };
    go_json::marshal(&json!({"error": {"message": text, "type": kind, "param": null, "code": null}}))
}

/// The counts of tokens in OpenAI's form; zeros for a run that broke off.
fn usage(end: Option<&End>) -> Value {
    let (prompt, completion) = counts(end);
    json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion})
}

fn counts(end: Option<&End>) -> (u64, u64) {
    end.map_or((0, 0), |end| (end.prompt_tokens, end.eval_count))
}

/// One event of OpenAI's older routes.
fn data(out: &mut String, value: &Value) {
    out.push_str("data: ");
    out.push_str(&go_json::marshal(value));
    out.push_str("\n\n");
}

/// One event of the other routes, which name its type twice.
fn event(out: &mut String, value: &Value) {
    out.push_str("event: ");
    out.push_str(value["type"].as_str().unwrap_or_default());
    out.push('\n');
    data(out, value);
}

/// Marks an answer as simulated.
pub(crate) fn mark(value: &mut Value, simulated: bool) {
    if simulated {
        value["simulated"] = true.into();
    }
}

/// A number below `limit`, as the ids of answers contain.
fn id(prefix: &str, limit: u32) -> String {
    format!("{prefix}{}", rand::random_range(0..limit))
}

fn now() -> i64 {
    chrono::Utc::now().timestamp()
}

/// How much a model shall think.
fn effort(level: &str) -> Result<Option<Think>, String> {
    match level {
        "" => Ok(None),
        "none" => Ok(Some(Think(false))),
        "low" | "medium" | "high" | "max" => Ok(Some(Think(true))),
        other => Err(format!(
            "invalid reasoning value: '{other}' (must be \"high\", \"medium\", \"low\", \"max\", or \"none\")"
        )),
    }
}

/// Checks that a URL contains an image, because Ollama fetches none.
fn check_image(url: &str) -> Result<(), String> {
    if url.starts_with("http://") || url.starts_with("https://") {
        return Err(
            "image URLs are not currently supported, please use base64 encoded data instead".to_owned()
        );
    }
    let kinds = [
        "data:;base64,",
        "data:image/jpeg;base64,",
        "data:image/jpg;base64,",
        "data:image/png;base64,",
        "data:image/webp;base64,",
    ];
    match kinds.iter().any(|kind| url.starts_with(kind)) {
        true => Ok(()),
        false => Err("invalid image input".to_owned()),
    }
}
