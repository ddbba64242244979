//! The body of a sync call, read as Ollama reads it: the last of repeated keys counts, case aside, and bytes after the object
//! do not count.
//!
//! Must never see another model, other options or another purpose in a body than Ollama does. Must never change a byte of the
//! body, except that `keep_alive` is taken out: one at the wrong moment makes Ollama hang. What cannot be read is refused in
//! Ollama's own words.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::go_json::{self, GoMember, GoValue, folds_to};
use crate::load_key::{LoadKey, LoadKeyError};
use crate::model::ModelName;
use crate::route::{Route, RunKind};

/// What a sync call asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To run the model, or to load it: both are jobs.
    Run,
    /// To unload the model.
    Unload,
}

/// The body of a sync call, after it was read.
#[derive(Clone, Debug)]
pub struct SyncBody {
    pub route: Route,
    /// The model as the client wrote it.
    pub model: String,
    pub load_key: LoadKey,
    /// What Ollama gets, and what is stored.
    pub payload: String,
    /// Whether the client asked for a stream.
    pub stream: bool,
    pub purpose: Purpose,
}

/// Why a body cannot become a sync call: the status and the words with which Ollama itself refuses it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct SyncBodyError {
    pub status: u16,
    pub text: String,
}

impl SyncBodyError {
    fn bad(text: impl Into<String>) -> Self {
        Self { status: 400, text: text.into() }
    }

    /// The model only embeds.
    pub fn only_embeds(body: &SyncBody) -> Self {
        let kind = if body.route.kind() == RunKind::Generate { "generate" } else { "chat" };
        Self::bad(format!("\"{}\" does not support {kind}", body.model))
    }

    /// No host has the model.
    pub fn model_not_found(kind: RunKind, model: &str) -> Self {
        let text = match kind {
            RunKind::Embed => format!("model \"{model}\" not found, try pulling it first"),
            RunKind::Chat | RunKind::Generate => format!("model '{model}' not found"),
        };
        Self { status: 404, text }
    }
}

impl SyncBody {
    pub fn read(route: Route, body: &[u8]) -> Result<Self, SyncBodyError> {
        let mut fields = Fields::new(route, body);
        let payload = match go_json::read(body, |member| fields.take(member)).map_err(SyncBodyError::bad)? {
            GoValue::Object(place) => fields.payload(place),
            GoValue::Missing if route.is_native() => return Err(SyncBodyError::bad("missing request body")),
            GoValue::Missing => return Err(SyncBodyError::bad("EOF")),
            // To Go, null is an object without members.
            GoValue::Other("null") => "null".to_owned(),
            GoValue::Other(kind) => {
                let (package, name) = go_type(route);
                let text = format!("json: cannot unmarshal {kind} into Go value of type {package}.{name}");
                return Err(SyncBodyError::bad(text));
            }
        };
        if let Some(wrong) = fields.wrong {
            return Err(SyncBodyError::bad(wrong));
        }
        let name = model_name(route, &fields.model)?;
        let load_key = LoadKey::with_options(name, &fields.options, fields.shift)
            .map_err(|error: LoadKeyError| SyncBodyError::bad(error.to_string()))?;
        let purpose = match (fields.is_empty, fields.unloads) {
            (true, true) if route.is_native() && !route.embeds() => Purpose::Unload,
            _ => Purpose::Run,
        };
        Ok(Self {
            route,
            model: fields.model,
            load_key,
            payload,
            stream: fields.stream.unwrap_or(route.is_native() && !route.embeds()),
            purpose,
        })
    }
}

/// The model's canonical name, or Ollama's refusal of a name that it does not accept.
fn model_name(route: Route, model: &str) -> Result<ModelName, SyncBodyError> {
    ModelName::parse(model).map_err(|_| match (route.kind(), model) {
        (kind @ (RunKind::Generate | RunKind::Embed), model) => SyncBodyError::model_not_found(kind, model),
        (RunKind::Chat, "") => SyncBodyError::bad("model is required"),
        (RunKind::Chat, _) => SyncBodyError::bad("invalid model name"),
    })
}

/// The structure into which Ollama reads the bodies of a route, as its error texts name it.
fn go_type(route: Route) -> (&'static str, &'static str) {
    match route {
        Route::Chat => ("api", "ChatRequest"),
        Route::Generate => ("api", "GenerateRequest"),
        Route::ChatCompletions => ("openai", "ChatCompletionRequest"),
        Route::Completions => ("openai", "CompletionRequest"),
        Route::Responses => ("openai", "ResponsesRequest"),
        Route::Messages => ("anthropic", "MessagesRequest"),
        Route::Embed => ("api", "EmbedRequest"),
        Route::Embeddings => ("api", "EmbeddingRequest"),
        Route::OpenAiEmbeddings => ("openai", "EmbedRequest"),
    }
}

/// The members of a body that Foreman reads.
struct Fields<'a> {
    route: Route,
    body: &'a [u8],
    /// The members that stay, with the commas between them.
    kept: Vec<u8>,
    model: String,
    stream: Option<bool>,
    /// Raw values by name. Go reads a repeated object into the same map.
    options: BTreeMap<String, &'a [u8]>,
    shift: Option<bool>,
    /// A request without messages or prompt only loads or unloads.
    is_empty: bool,
    /// Whether the last `keep_alive` is zero.
    unloads: bool,
    /// Go's text about the first value of a wrong type.
    wrong: Option<String>,
}

impl<'a> Fields<'a> {
    fn new(route: Route, body: &'a [u8]) -> Self {
        Self {
            route,
            body,
            kept: Vec::with_capacity(body.len()),
            model: String::new(),
            stream: None,
            options: BTreeMap::new(),
            shift: None,
            is_empty: true,
            unloads: false,
            wrong: None,
        }
    }

    fn take(&mut self, member: GoMember) {
        let value = &self.body[member.value];
        let is = |field| folds_to(&member.key, field);
        let native = self.route.is_native();
        if native && is("keep_alive") && may_be_duration(value) {
            self.unloads = is_zero(value);
            return;
        }
        if !self.kept.is_empty() {
            self.kept.push(b',');
        }
        self.kept.extend_from_slice(&self.body[member.place]);
        if is("model") {
            self.set(
                "model",
                "string",
                value,
                |fields, model: Option<String>| {
                    // For Go, null leaves a string as it was.
                    fields.model = model.unwrap_or(std::mem::take(&mut fields.model));
                },
                go_json::string,
            );
        } else if !self.route.embeds() && is("stream") {
            self.set(
                "stream",
                "bool",
                value,
                |fields, stream| {
                    fields.stream = if native { stream } else { stream.or(fields.stream) };
                },
                truth,
            );
        } else if native && !self.route.embeds() && is("shift") {
            self.set("shift", "bool", value, |fields, shift| fields.shift = shift, truth);
        } else if native && is("options") {
            self.options(value);
        } else if self.route == Route::Chat && is("messages") {
            self.is_empty = value == b"null" || is_empty_array(value);
        } else if self.route == Route::Generate && is("prompt") && value != b"null" {
            self.is_empty = value == b"\"\"";
        }
    }

    /// Reads a value. `None` is null, and a value of another type is noted as wrong.
    fn set<T>(
        &mut self,
        field: &str,
        wanted: &str,
        value: &[u8],
        set: impl FnOnce(&mut Self, Option<T>),
        read: impl FnOnce(&[u8]) -> Option<T>,
    ) {
        match read(value) {
            None if value != b"null" => self.is_wrong(field, wanted, value),
            read => set(self, read),
        }
    }

    fn options(&mut self, value: &'a [u8]) {
        if value == b"null" {
            self.options.clear();
        } else if value.first() == Some(&b'{') {
            let options = &mut self.options;
            // The whole body is valid, and so is this part of it.
            _ = go_json::read(value, |option| {
                if LoadKey::depends_on(&option.key) {
                    options.insert(option.key, &value[option.value]);
                }
            });
        } else {
            self.is_wrong("options", "map[string]interface {}", value);
        }
    }

    fn is_wrong(&mut self, field: &str, wanted: &str, value: &[u8]) {
        let (kind, (_, name)) = (go_json::kind(value), go_type(self.route));
        self.wrong.get_or_insert_with(|| {
            format!("json: cannot unmarshal {kind} into Go struct field {name}.{field} of type {wanted}")
        });
    }

    /// The body that Ollama gets. Space after the object stays; other bytes there mean nothing to Ollama, and Postgres could
    /// perhaps not store them.
    fn payload(&mut self, object: Range<usize>) -> String {
        let after = &self.body[object.end..];
        let after = if after.iter().all(u8::is_ascii_whitespace) { after } else { b"" };
        let parts = [&self.body[..=object.start], &self.kept[..], b"}", after];
        go_json::utf8(&parts.concat())
    }
}

fn truth(value: &[u8]) -> Option<bool> {
    match value {
        b"true" => Some(true),
        b"false" => Some(false),
        _ => None,
    }
}

/// Whether a valid array has no item. Its first bytes are enough.
fn is_empty_array(value: &[u8]) -> bool {
    value.strip_prefix(b"[").is_some_and(|rest| rest.trim_ascii_start().starts_with(b"]"))
}

/// Whether Ollama may take this value for a duration. One that it certainly refuses stays in the body, so that Ollama says why.
pub(crate) fn may_be_duration(value: &[u8]) -> bool {
    match go_json::kind(value) {
        "number" | "null" => true,
        "string" => go_json::string(value).is_some_and(|text| text.contains(|c: char| c.is_ascii_digit())),
        _ => false,
    }
}

/// Whether a duration is zero: a number, or numbers with units.
fn is_zero(value: &[u8]) -> bool {
    let text = go_json::string(value).unwrap_or_else(|| go_json::utf8(value));
    let number = text.split(['e', 'E']).next().unwrap_or_default();
    let digits = |c: &char| c.is_ascii_digit();
    number.chars().any(|c| digits(&c)) && number.chars().filter(digits).all(|c| c == '0')
}

#[cfg(test)]
mod tests;
