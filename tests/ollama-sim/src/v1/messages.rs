//! `/v1/messages`: Anthropic's messages on top of `/api/chat`.

mod voice;

use hyper::Response;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use self::voice::Messages;
use super::Fields;
use crate::go_json::{self, Json};
use crate::http::{self, Body};
use crate::request::{Message, RunRequest, Think};
use crate::voice::Asked;

/// An error in Anthropic's form.
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
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        429 => "rate_limit_error",
        503 | 529 => "overloaded_error",
        _ => "api_error",
    };
    go_json::marshal(
        &json!({"type": "error", "error": {"type": kind, "message": text}, "request_id": id("req")}),
    )
}

fn id(prefix: &str) -> String {
    format!("{prefix}_{:024x}", rand::random::<u128>() >> 32)
}

pub(crate) fn read(body: &[u8], simulated: bool) -> Result<Asked, String> {
    let fields = Fields::decode("anthropic.MessagesRequest", body)?;
    let model = fields.text("model")?;
    let most = fields.integer("max_tokens")?.unwrap_or_default();
    let given = fields.list("messages", "[]anthropic.MessageParam")?;
    let mut options =
        fields.options(&[("max_tokens", "num_predict"), ("top_k", "top_k")], &["temperature", "top_p"])?;
    let stops = fields.list("stop_sequences", "[]string")?;
    if !stops.is_empty() {
        options.push(("stop".to_owned(), Json::Array(stops.to_vec())));
    }
    let tools = fields.list("tools", "[]anthropic.Tool")?;
    let stream = fields.flag("stream")?;
    if model.is_empty() {
        return Err("model is required".to_owned());
    }
    if most <= 0 {
        return Err("max_tokens is required and must be positive".to_owned());
    }
    if given.is_empty() {
        return Err("messages is required".to_owned());
    }
    let mut messages: Vec<_> = fields
        .get("system")
        .map(blocks_text)
        .filter(|text| !text.is_empty())
        .map_or_else(Vec::new, |content| vec![Message { role: "system".to_owned(), content, images: 0 }]);
    for message in given {
        translate(message, &mut messages)?;
    }
    let voice = Messages::new(model.clone(), estimate(&messages, given, tools, body), simulated);
    let request = RunRequest {
        model,
        messages,
        stream: Some(stream),
        tools: tools.iter().map(tool).collect(),
        options,
        think: think(&fields),
        ..RunRequest::default()
    };
    Ok(Asked { request, voice: Box::new(voice) })
}

/// The text of a content: a string, or blocks of which some have text.
fn blocks_text(content: &Json) -> String {
    match content {
        Json::String(text) => text.clone(),
        Json::Array(blocks) => {
            blocks.iter().filter_map(|block| block.get("text").and_then(Json::as_str)).collect()
        }
        _ => String::new(),
    }
}

/// Results of tools become messages of their own, before the text of a user and after that of others.
fn translate(message: &Json, into: &mut Vec<Message>) -> Result<(), String> {
    let role = message.get("role").and_then(Json::as_str).unwrap_or_default().to_lowercase();
    let blocks = match message.get("content") {
        Some(Json::String(text)) => {
            into.push(Message { role, content: text.clone(), images: 0 });
            return Ok(());
        }
        Some(Json::Array(blocks)) => blocks,
        None => return Err("unexpected end of JSON input".to_owned()),
        Some(other) => {
            let kind = other.kind();
            return Err(format!(
                "json: cannot unmarshal {kind} into Go value of type []anthropic.ContentBlock"
            ));
        }
    };
    let mut own = Message { role, ..Message::default() };
    let (mut results, mut more) = (Vec::new(), false);
    for block in blocks {
        match block.get("type").and_then(Json::as_str) {
            Some("text") => own.content.push_str(&blocks_text(&Json::Array(vec![block.clone()]))),
            Some("image") => {
                check_image(block.get("source"))?;
                own.images += 1;
            }
            Some("tool_use" | "thinking") => more = true,
            Some("tool_result") => results.push(Message {
                role: "tool".to_owned(),
                content: block.get("content").map(blocks_text).unwrap_or_default(),
                images: 0,
            }),
            _ => {}
        }
    }
    let own = (more || own.images > 0 || !own.content.is_empty()).then_some(own);
    if message.get("role").and_then(Json::as_str) == Some("user") {
        into.extend(results);
        into.extend(own);
    } else {
        into.extend(own);
        into.extend(results);
    }
    Ok(())
}

fn check_image(source: Option<&Json>) -> Result<(), String> {
    let source = source.ok_or("invalid image source")?;
    match source.get("type").and_then(Json::as_str).unwrap_or_default() {
        "base64" => Ok(()),
        other => Err(format!("invalid image source type: {other}. Only base64 images are supported.")),
    }
}

/// A tool in the form of `/api/chat`.
fn tool(tool: &Json) -> Json {
    let mut function = Vec::new();
    for (theirs, ours) in [("name", "name"), ("description", "description"), ("input_schema", "parameters")] {
        if let Some(value) = tool.get(theirs) {
            function.push((ours.to_owned(), value.clone()));
        }
    }
    Json::Object(vec![("function".to_owned(), Json::Object(function))])
}

fn think(fields: &Fields) -> Option<Think> {
    let word = |field: &str, key: &str| fields.get(field)?.get(key)?.as_str();
    match (word("thinking", "type"), word("output_config", "effort")) {
        (Some("enabled"), _) => Some(Think(true)),
        (Some("disabled"), _) => Some(Think(false)),
        (_, Some("low" | "medium" | "high" | "xhigh" | "max")) => Some(Think(true)),
        _ => None,
    }
}

/// What a stream says of the prompt's tokens before they were counted: a quarter of the letters, those of the tools'
/// schemas as the client wrote them.
fn estimate(messages: &[Message], given: &[Json], tools: &[Json], body: &[u8]) -> usize {
    #[derive(Deserialize)]
    struct Schemas<'a> {
        #[serde(borrow, default)]
        tools: Vec<Schema<'a>>,
    }
    #[derive(Deserialize)]
    struct Schema<'a> {
        #[serde(borrow, default)]
        input_schema: Option<&'a RawValue>,
    }
    let length = |json: &Json, key: &str| json.get(key).and_then(Json::as_str).map_or(0, str::len);
    let texts: usize = messages.iter().map(|message| message.content.len()).sum();
    let roles: usize = given.iter().map(|message| length(message, "role")).sum();
    let tools: usize = tools.iter().map(|tool| length(tool, "name") + length(tool, "description")).sum();
    // A body that only Go can read has no schemas here, which makes the estimate smaller.
    let schemas: usize = Schemas::deserialize(&mut serde_json::Deserializer::from_slice(body))
        .map(|all| all.tools.iter().filter_map(|tool| tool.input_schema).map(|raw| raw.get().len()).sum())
        .unwrap_or_default();
    ((texts + roles + tools + schemas) / 4).max(1)
}
