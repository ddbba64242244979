//! The bodies of `/api/chat` and `/api/generate`, parsed with Go's leniency and Go's error texts.

use crate::go_json::{self, Json};
use crate::keep_alive::KeepAlive;

/// A request to run a model, on either route. Fields that only the other route knows stay empty.
#[derive(Clone, Debug, Default)]
pub(crate) struct RunRequest {
    pub(crate) model: String,
    pub(crate) messages: Vec<Message>,
    pub(crate) prompt: String,
    pub(crate) suffix: String,
    pub(crate) system: String,
    pub(crate) template: String,
    pub(crate) context: Vec<i64>,
    pub(crate) images: usize,
    pub(crate) raw: bool,
    pub(crate) stream: Option<bool>,
    pub(crate) format: Option<Json>,
    pub(crate) keep_alive: Option<KeepAlive>,
    pub(crate) tools: Vec<Json>,
    pub(crate) options: Vec<(String, Json)>,
    pub(crate) think: Option<Think>,
    pub(crate) truncate: Option<bool>,
    pub(crate) shift: Option<bool>,
    pub(crate) logprobs: bool,
    pub(crate) top_logprobs: i64,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Message {
    pub(crate) role: String,
    pub(crate) content: String,
    pub(crate) images: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Think(pub(crate) bool);

/// Go's name of the structure that a body is parsed into, which its error texts contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Chat,
    Generate,
}

impl Shape {
    fn name(self) -> &'static str {
        match self {
            Self::Chat => "ChatRequest",
            Self::Generate => "GenerateRequest",
        }
    }
}

impl RunRequest {
    /// Parses a body, or returns the error text that Ollama answers with status 400.
    pub(crate) fn decode(shape: Shape, body: &[u8]) -> Result<Self, String> {
        let value = go_json::decode(body)?.ok_or("missing request body")?;
        let mut request = Self::default();
        match value {
            Json::Object(members) => {
                let mut fields = Fields { shape, mismatch: None };
                for (key, value) in members {
                    fields.set(&mut request, &key, value)?;
                }
                match fields.mismatch {
                    // Go reads on after a value of the wrong type, and reports the first such value at the end.
                    Some(mismatch) => Err(mismatch),
                    None => Ok(request),
                }
            }
            Json::Null => Ok(request),
            other => Err(format!(
                "json: cannot unmarshal {} into Go value of type api.{}",
                other.kind(),
                shape.name()
            )),
        }
    }

    /// The text whose words choose the answer: the prompt, or the last message.
    pub(crate) fn last_text(&self) -> &str {
        self.messages.last().map_or(&self.prompt, |message| &message.content)
    }

    pub(crate) fn has_images(&self) -> bool {
        self.images > 0 || self.messages.iter().any(|message| message.images > 0)
    }

    /// Whether the request only loads or unloads a model.
    pub(crate) fn is_empty(&self, shape: Shape) -> bool {
        match shape {
            Shape::Chat => self.messages.is_empty(),
            Shape::Generate => self.prompt.is_empty(),
        }
    }

    pub(crate) fn option(&self, name: &str) -> Option<&Json> {
        self.options.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value)
    }
}

struct Fields {
    shape: Shape,
    mismatch: Option<String>,
}

impl Fields {
    fn set(&mut self, request: &mut RunRequest, key: &str, value: Json) -> Result<(), String> {
        const CHAT: &[&str] = &["messages", "tools"];
        const GENERATE: &[&str] = &["prompt", "suffix", "system", "template", "context", "raw", "images"];
        const BOTH: &[&str] = &[
            "model",
            "stream",
            "format",
            "keep_alive",
            "options",
            "think",
            "truncate",
            "shift",
            "logprobs",
            "top_logprobs",
        ];
        let own = if self.shape == Shape::Chat { CHAT } else { GENERATE };
        let Some(field) = BOTH.iter().chain(own).find(|field| go_json::folds_to(key, field)) else {
            return Ok(());
        };
        match *field {
            "model" => self.text(field, value, &mut request.model),
            "prompt" => self.text(field, value, &mut request.prompt),
            "suffix" => self.text(field, value, &mut request.suffix),
            "system" => self.text(field, value, &mut request.system),
            "template" => self.text(field, value, &mut request.template),
            "raw" => self.truth(field, value, &mut request.raw),
            "logprobs" => self.truth(field, value, &mut request.logprobs),
            "stream" => self.pointer(field, value, &mut request.stream),
            "truncate" => self.pointer(field, value, &mut request.truncate),
            "shift" => self.pointer(field, value, &mut request.shift),
            "top_logprobs" => self.integer(field, &value, &mut request.top_logprobs),
            "format" => request.format = (value != Json::Null).then_some(value),
            "keep_alive" => request.keep_alive = KeepAlive::read(&value)?,
            "think" => request.think = think(&value)?,
            "tools" => request.tools = self.list(field, "api.Tools", value).unwrap_or_default(),
            "images" => {
                request.images = images(self.list(field, "[]api.ImageData", value).unwrap_or_default())?
            }
            "messages" => self.messages(request, value)?,
            "context" => {
                let items = self.list(field, "[]int", value).unwrap_or_default();
                request.context = vec![0; items.len()];
                for (item, number) in items.iter().zip(&mut request.context) {
                    self.integer(field, item, number);
                }
            }
            "options" => match value {
                // Go parses a repeated object into the same map.
                Json::Object(members) => request.options.extend(members),
                Json::Null => request.options.clear(),
                other => self.wrong(field, &other, "map[string]interface {}"),
            },
            _ => {}
        }
        Ok(())
    }

    fn messages(&mut self, request: &mut RunRequest, value: Json) -> Result<(), String> {
        request.messages.clear();
        for item in self.list("messages", "[]api.Message", value).unwrap_or_default() {
            let mut message = Message::default();
            match item {
                Json::Object(members) => {
                    for (key, value) in members {
                        if go_json::folds_to(&key, "role") {
                            self.text("messages.role", value, &mut message.role);
                        } else if go_json::folds_to(&key, "content") {
                            self.text("messages.content", value, &mut message.content);
                        } else if go_json::folds_to(&key, "images") {
                            let list = self.list("messages.images", "[]api.ImageData", value);
                            message.images = images(list.unwrap_or_default())?;
                        }
                    }
                }
                Json::Null => {}
                other => self.wrong("messages", &other, "api.Message"),
            }
            request.messages.push(message);
        }
        Ok(())
    }

    fn wrong(&mut self, field: &str, value: &Json, wanted: &str) {
        let what = match value {
            // Go names the number itself if its kind is right and its value is not.
            Json::Number(number) if wanted == "int" => format!("number {number}"),
            other => other.kind().to_owned(),
        };
        let shape = self.shape.name();
        let text =
            format!("json: cannot unmarshal {what} into Go struct field {shape}.{field} of type {wanted}");
        self.mismatch.get_or_insert(text);
    }

    fn text(&mut self, field: &str, value: Json, into: &mut String) {
        match value {
            Json::String(text) => *into = text,
            Json::Null => {}
            other => self.wrong(field, &other, "string"),
        }
    }

    fn truth(&mut self, field: &str, value: Json, into: &mut bool) {
        match value {
            Json::Bool(truth) => *into = truth,
            Json::Null => {}
            other => self.wrong(field, &other, "bool"),
        }
    }

    fn pointer(&mut self, field: &str, value: Json, into: &mut Option<bool>) {
        match value {
            Json::Bool(truth) => *into = Some(truth),
            Json::Null => *into = None,
            other => self.wrong(field, &other, "bool"),
        }
    }

    fn integer(&mut self, field: &str, value: &Json, into: &mut i64) {
        match value {
            Json::Number(number) => match number.parse() {
                Ok(number) => *into = number,
                Err(_) => self.wrong(field, value, "int"),
            },
            Json::Null => {}
            other => self.wrong(field, other, "int"),
        }
    }

    fn list(&mut self, field: &str, wanted: &str, value: Json) -> Option<Vec<Json>> {
        match value {
            Json::Array(items) => Some(items),
            Json::Null => None,
            other => {
                self.wrong(field, &other, wanted);
                None
            }
        }
    }
}

fn think(value: &Json) -> Result<Option<Think>, String> {
    match value {
        Json::Null => Ok(None),
        Json::Bool(truth) => Ok(Some(Think(*truth))),
        Json::String(level) if matches!(level.as_str(), "high" | "medium" | "low" | "max") => {
            Ok(Some(Think(true)))
        }
        Json::String(level) => Err(format!(
            "invalid think value: {} (must be \"high\", \"medium\", \"low\", \"max\", true, or false)",
            go_json::string(level)
        )),
        _ => {
            Err("think must be a boolean or string (\"high\", \"medium\", \"low\", \"max\", true, or false)"
                .to_owned())
        }
    }
}

/// The number of images. Each must be standard base64.
fn images(items: Vec<Json>) -> Result<usize, String> {
    for item in &items {
        let text = item.as_str().unwrap_or_default();
        let body = text.trim_end_matches('=');
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
        if let Some(at) = body.bytes().position(|byte| !valid(byte)) {
            return Err(format!("illegal base64 data at input byte {at}"));
        }
        if !text.len().is_multiple_of(4) || text.len() - body.len() > 2 {
            return Err(format!("illegal base64 data at input byte {}", text.len()));
        }
    }
    Ok(items.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_repeated_keys_wins_case_aside() {
        let body =
            br#"{"model":"a","MODEL":"b","stream":true,"Stream":null,"options":{"x":1},"OPTIONS":{"x":2}}"#;
        let request = RunRequest::decode(Shape::Chat, body).unwrap();
        assert_eq!((request.model.as_str(), request.stream), ("b", None));
        assert_eq!(request.option("x"), Some(&Json::Number("2".to_owned())));
    }
}
