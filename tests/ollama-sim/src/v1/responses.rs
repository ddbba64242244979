//! `/v1/responses`: OpenAI's responses on top of `/api/chat`. Ollama keeps none of them.

mod voice;

use serde_json::{Value, json};

use self::voice::Responses;
use super::{Fields, check_image, counts, effort, id, now};
use crate::go_json::Json;
use crate::request::{Message, RunRequest};
use crate::voice::{Asked, End};

pub(crate) fn read(body: &[u8], simulated: bool) -> Result<Asked, String> {
    let fields = Fields::decode("openai.ResponsesRequest", body)?;
    let word = |key: &str| {
        let value = fields.get("reasoning").and_then(|reasoning| reasoning.get(key));
        value.and_then(Json::as_str).filter(|word| !word.is_empty()).map(str::to_owned)
    };
    let tools = fields.list("tools", "[]openai.ResponsesTool")?;
    let echo = Echo {
        id: id("resp_", 999_999),
        created: now(),
        model: fields.text("model")?,
        instructions: Some(fields.text("instructions")?).filter(|text| !text.is_empty()),
        max_output_tokens: fields.integer("max_output_tokens")?,
        tools: tools.iter().map(tool).collect(),
        truncation: Some(fields.text("truncation")?).filter(|text| !text.is_empty()),
        format: fields.get("text").and_then(|text| text.get("format")).cloned(),
        top_p: fields.float("top_p")?,
        temperature: fields.float("temperature")?,
        effort: word("effort"),
        summary: word("summary"),
        background: fields.flag("background")?,
    };
    let mut messages = Vec::new();
    if let Some(text) = &echo.instructions {
        messages.push(Message { role: "system".to_owned(), content: text.clone(), images: 0 });
    }
    input(fields.get("input"), &mut messages)?;
    let schema = echo
        .format
        .as_ref()
        .filter(|format| format.get("type").and_then(Json::as_str) == Some("json_schema"));
    let request = RunRequest {
        model: echo.model.clone(),
        messages,
        stream: Some(fields.flag("stream")?),
        format: schema.and_then(|format| format.get("schema")).cloned(),
        tools: tools.to_vec(),
        options: fields.options(&[("max_output_tokens", "num_predict")], &["temperature", "top_p"])?,
        think: effort(echo.effort.as_deref().unwrap_or_default())?,
        ..RunRequest::default()
    };
    Ok(Asked { request, voice: Box::new(Responses::new(echo, simulated)) })
}

fn input(input: Option<&Json>, messages: &mut Vec<Message>) -> Result<(), String> {
    match input {
        None => {}
        Some(Json::String(text)) if text.is_empty() => {}
        Some(Json::String(text)) => {
            messages.push(Message { role: "user".to_owned(), content: text.clone(), images: 0 });
        }
        Some(Json::Array(items)) => {
            for (at, one) in items.iter().enumerate() {
                item(one, messages).map_err(|error| format!("input[{at}]: {error}"))?;
            }
        }
        Some(other) => {
            return Err(format!(
                "input must be a string or array: json: cannot unmarshal {} into Go value of type []json.RawMessage",
                other.kind()
            ));
        }
    }
    Ok(())
}

fn item(item: &Json, messages: &mut Vec<Message>) -> Result<(), String> {
    let word = |key: &str| item.get(key).and_then(Json::as_str).unwrap_or_default();
    match word("type") {
        "message" => messages.push(message(word("role"), item.get("content"))?),
        "" if !word("role").is_empty() => messages.push(message(word("role"), item.get("content"))?),
        "" => return Err("input item missing required 'type' field".to_owned()),
        // A call joins the words of the assistant before it.
        "function_call" if messages.last().is_some_and(|last| last.role == "assistant") => {}
        "function_call" => messages.push(Message { role: "assistant".to_owned(), ..Message::default() }),
        "function_call_output" => messages.push(message("tool", item.get("output"))?),
        "reasoning" => {}
        other => return Err(format!("unknown input item type: {other:?}")),
    }
    Ok(())
}

fn message(role: &str, content: Option<&Json>) -> Result<Message, String> {
    let mut message = Message { role: role.to_owned(), ..Message::default() };
    match content {
        None => {}
        Some(Json::String(text)) => message.content.clone_from(text),
        Some(Json::Array(parts)) => {
            for part in parts {
                let word = |key: &str| part.get(key).and_then(Json::as_str).unwrap_or_default();
                match word("type") {
                    "input_text" | "output_text" => message.content.push_str(word("text")),
                    "input_image" if word("image_url").is_empty() => {}
                    "input_image" => {
                        check_image(word("image_url"))?;
                        message.images += 1;
                    }
                    "input_file" => return Err("file inputs are not currently supported".to_owned()),
                    other => return Err(format!("unknown content type: {other}")),
                }
            }
        }
        Some(_) => return Err("content must be a string or array".to_owned()),
    }
    Ok(message)
}

fn tool(tool: &Json) -> Value {
    let field = |key: &str| tool.get(key).map_or(Value::Null, Value::from);
    json!({
        "type": field("type"),
        "name": field("name"),
        "description": field("description"),
        "strict": field("strict"),
        "parameters": field("parameters"),
    })
}

/// What a response repeats of its request.
#[derive(Debug)]
struct Echo {
    id: String,
    created: i64,
    model: String,
    instructions: Option<String>,
    max_output_tokens: Option<i64>,
    tools: Vec<Value>,
    truncation: Option<String>,
    format: Option<Json>,
    top_p: Option<f64>,
    temperature: Option<f64>,
    effort: Option<String>,
    summary: Option<String>,
    background: bool,
}

impl Echo {
    /// The response as an object. `end` is missing until the run has ended.
    fn response(&self, status: &str, output: &[Value], reasoning: &Value, end: Option<&End>) -> Value {
        let usage = end.map(|end| {
            let (input, output) = counts(Some(end));
            json!({
                "input_tokens": input,
                "output_tokens": output,
                "total_tokens": input + output,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens_details": {"reasoning_tokens": 0},
            })
        });
        json!({
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "completed_at": end.map(|_| now()),
            "status": status,
            "incomplete_details": null,
            "model": self.model,
            "previous_response_id": null,
            "instructions": self.instructions,
            "output": output,
            "error": null,
            "tools": self.tools,
            "tool_choice": "auto",
            "truncation": self.truncation.as_deref().unwrap_or("disabled"),
            "parallel_tool_calls": true,
            "text": {"format": self.format.as_ref().map_or_else(|| json!({"type": "text"}), Value::from)},
            "top_p": self.top_p.unwrap_or(1.0),
            "presence_penalty": 0,
            "frequency_penalty": 0,
            "top_logprobs": 0,
            "temperature": self.temperature.unwrap_or(1.0),
            "reasoning": reasoning,
            "usage": usage,
            "max_output_tokens": self.max_output_tokens,
            "max_tool_calls": null,
            "store": false,
            "background": self.background,
            "service_tier": "default",
            "metadata": {},
            "safety_identifier": null,
            "prompt_cache_key": null,
        })
    }

    /// The wish for thinking, with null for what was left out.
    fn reasoning(&self) -> Value {
        match (&self.effort, &self.summary) {
            (None, None) => Value::Null,
            (effort, summary) => json!({"effort": effort, "summary": summary}),
        }
    }

    /// The wish for thinking, without what was left out.
    fn reasoning_without_nulls(&self) -> Value {
        let mut reasoning = self.reasoning();
        if let Value::Object(members) = &mut reasoning {
            members.retain(|_, value| !value.is_null());
        }
        reasoning
    }
}
