//! `/v1/chat/completions`: OpenAI's chat on top of `/api/chat`.

use serde_json::{Value, json};

use super::{Fields, check_image, data, effort, id, mark, now, usage};
use crate::go_json::Json;
use crate::request::{Message, RunRequest};
use crate::voice::{Asked, Call, End, Said, Voice};

pub(crate) fn read(body: &[u8], simulated: bool) -> Result<Asked, String> {
    let fields = Fields::decode("openai.ChatCompletionRequest", body)?;
    let given = fields.list("messages", "[]openai.Message")?;
    let stream = fields.flag("stream")?;
    let mut options = fields.options(
        &[("max_tokens", "num_predict"), ("seed", "seed")],
        &["temperature", "top_p", "frequency_penalty", "presence_penalty"],
    )?;
    options.extend(fields.stop());
    let level = match fields.get("reasoning") {
        Some(reasoning) => reasoning.get("effort").and_then(Json::as_str).unwrap_or_default().to_owned(),
        None => fields.text("reasoning_effort")?,
    };
    let model = fields.text("model")?;
    let (logprobs, top_logprobs) =
        (fields.flag("logprobs")?, fields.integer("top_logprobs")?.unwrap_or_default());
    let tools = fields.list("tools", "[]api.Tool")?.to_vec();
    if given.is_empty() {
        return Err("[] is too short - 'messages'".to_owned());
    }
    let mut messages = Vec::new();
    for message in given {
        translate(message, &mut messages)?;
    }
    let usage = fields.get("stream_options").and_then(|options| options.get("include_usage"));
    let voice = ChatCompletions {
        id: id("chatcmpl-", 999),
        created: now(),
        model: model.clone(),
        usage: usage == Some(&Json::Bool(true)),
        begun: false,
        called: false,
        simulated,
    };
    let request = RunRequest {
        model,
        messages,
        stream: Some(stream),
        format: format(&fields),
        tools,
        options,
        think: effort(&level)?,
        logprobs,
        top_logprobs,
        ..RunRequest::default()
    };
    Ok(Asked { request, voice: Box::new(voice) })
}

/// Each part of a message becomes a message of its own.
fn translate(message: &Json, into: &mut Vec<Message>) -> Result<(), String> {
    let invalid = || "invalid message format".to_owned();
    let role = message.get("role").and_then(Json::as_str).unwrap_or_default();
    let mut add = |content: &str, images| {
        into.push(Message { role: role.to_owned(), content: content.to_owned(), images });
    };
    match message.get("content") {
        Some(Json::String(text)) => add(text, 0),
        Some(Json::Array(parts)) => {
            for part in parts {
                match part.get("type").and_then(Json::as_str) {
                    Some("text") => {
                        add(part.get("text").and_then(Json::as_str).ok_or_else(invalid)?, 0);
                    }
                    Some("image_url") => {
                        let image = part.get("image_url").ok_or_else(invalid)?;
                        let url = image.get("url").unwrap_or(image).as_str().ok_or_else(invalid)?;
                        check_image(url)?;
                        add("", 1);
                    }
                    _ => return Err(invalid()),
                }
            }
        }
        // Only a message that calls tools needs no content.
        _ if matches!(message.get("tool_calls"), Some(Json::Array(_))) => add("", 0),
        other => {
            let kind = match other {
                Some(Json::Number(_)) => "float64",
                Some(Json::Bool(_)) => "bool",
                Some(Json::Object(_)) => "map[string]interface {}",
                _ => "<nil>",
            };
            return Err(format!("invalid message content type: {kind}"));
        }
    }
    Ok(())
}

fn format(fields: &Fields) -> Option<Json> {
    let wanted = fields.get("response_format")?;
    match wanted.get("type")?.as_str()?.trim().to_lowercase().as_str() {
        "json_object" => Some(Json::String("json".to_owned())),
        "json_schema" => wanted.get("json_schema")?.get("schema").cloned(),
        _ => None,
    }
}

/// The voice of `/v1/chat/completions`.
#[derive(Debug)]
struct ChatCompletions {
    id: String,
    created: i64,
    model: String,
    /// Whether the stream ends with the counts of tokens.
    usage: bool,
    begun: bool,
    called: bool,
    simulated: bool,
}

impl ChatCompletions {
    fn object(&self, kind: &str, model: &str, choices: Value) -> Value {
        json!({
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": model,
            "system_fingerprint": "fp_ollama",
            "choices": choices,
        })
    }

    fn chunk(&self, model: &str, choices: Value) -> Value {
        self.object("chat.completion.chunk", model, choices)
    }

    /// A message, or what a chunk adds to it.
    fn message(role: bool, said: &Said) -> Value {
        let mut message = json!({});
        if role {
            message["role"] = "assistant".into();
        }
        message["content"] = said.text.as_str().into();
        if !said.thinking.is_empty() {
            message["reasoning"] = said.thinking.as_str().into();
        }
        if !said.tool_calls.is_empty() {
            message["tool_calls"] = said.tool_calls.iter().map(call).collect();
        }
        message
    }
}

fn call(call: &Call) -> Value {
    json!({
        "id": call.id,
        "index": call.index,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    })
}

fn add_logprobs(choice: &mut Value, said: &Said) {
    if !said.logprobs.is_empty() {
        let tokens = said.logprobs.iter().filter_map(|one| serde_json::from_str::<Value>(one).ok());
        let tokens: Vec<_> = tokens.collect();
        choice["logprobs"] = json!({"content": tokens});
    }
}

impl Voice for ChatCompletions {
    fn part(&mut self, out: &mut String, said: &Said) {
        let delta = Self::message(!self.begun, said);
        self.begun = true;
        self.called |= !said.tool_calls.is_empty();
        let mut choice = json!({"index": 0, "delta": delta, "finish_reason": null});
        add_logprobs(&mut choice, said);
        data(out, &self.chunk(&self.model, json!([choice])));
    }

    fn last(&mut self, out: &mut String, end: &End) {
        let reason = if self.called { "tool_calls" } else { end.reason };
        let choice = json!({"index": 0, "delta": {}, "finish_reason": reason});
        let mut last = self.chunk(&self.model, json!([choice]));
        mark(&mut last, self.simulated);
        data(out, &last);
        if self.usage {
            let mut counts = self.chunk(&self.model, json!([]));
            counts["usage"] = usage(Some(end));
            data(out, &counts);
        }
        out.push_str("data: [DONE]\n\n");
    }

    /// Ollama takes its own error for a chunk without content, so the error text is lost.
    fn failed(&mut self, out: &mut String, _: &str) {
        data(out, &self.chunk("", json!([{"index": 0, "delta": {}, "finish_reason": null}])));
    }

    fn whole(&mut self, said: &Said, end: Option<&End>) -> String {
        let reason = match (said.tool_calls.is_empty(), end) {
            (false, _) => Some("tool_calls"),
            (true, end) => end.map(|end| end.reason),
        };
        let mut choice = json!({"index": 0, "message": Self::message(true, said), "finish_reason": reason});
        add_logprobs(&mut choice, said);
        let mut answer = self.object("chat.completion", &self.model, json!([choice]));
        answer["usage"] = usage(end);
        mark(&mut answer, self.simulated);
        crate::go_json::marshal(&answer)
    }
}
