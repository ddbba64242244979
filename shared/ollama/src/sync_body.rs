//! The body of a sync call, read as Ollama reads it: the last of repeated keys counts, case aside, and bytes after the object
//! do not count.
//!
//! Must never see another model, other options or another purpose in a body than Ollama does. Must never change a byte of the
//! body, except that `keep_alive` is taken out: one at the wrong moment makes Ollama hang. What cannot be read is refused in
//! Ollama's own words.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::go_json::{self, GoMember, folds_to};
use crate::load_key::{LoadKey, LoadKeyError};
use crate::model::ModelName;
use crate::request_body::{self, Kept, go_type, is_keep_alive, is_without_content, is_zero};
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
        let empty = request_body::empty(route.is_native());
        let object = request_body::read(body, empty, go_type(route), |member| fields.take(member));
        let payload = match object.map_err(SyncBodyError::bad)? {
            Some(place) => fields.payload(&place),
            None => "null".to_owned(),
        };
        if let Some(wrong) = fields.wrong {
            return Err(SyncBodyError::bad(wrong));
        }
        let name = model_name(route, &fields.model)?;
        let load_key = LoadKey::with_options(name, &fields.options, fields.shift)
            .map_err(|error: LoadKeyError| SyncBodyError::bad(error.to_string()))?;
        // The bodies of OpenAI's and Anthropic's routes have no place for a context.
        let load_key = if route.is_native() { load_key.or_any_context() } else { load_key };
        let purpose = match (fields.is_empty, fields.unloads) {
            (true, true) if route.is_native() => Purpose::Unload,
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

/// The members of a body that Foreman reads.
struct Fields<'a> {
    route: Route,
    body: &'a [u8],
    kept: Kept<'a>,
    model: String,
    stream: Option<bool>,
    /// Raw values by name. Go reads a repeated object into the same map.
    options: BTreeMap<String, &'a [u8]>,
    shift: Option<bool>,
    /// A request without messages, prompt or input only loads or unloads.
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
            kept: Kept::new(body),
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
        let value = &self.body[member.value.clone()];
        let is = |field| folds_to(&member.key, field);
        let native = self.route.is_native();
        if native && is_keep_alive(&member, self.body) {
            self.unloads = is_zero(value);
            return;
        }
        self.kept.keep(&member);
        self.is_empty = is_without_content(self.route, &member, self.body).unwrap_or(self.is_empty);
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
    fn payload(&self, object: &Range<usize>) -> String {
        let after = &self.body[object.end..];
        let after = if after.iter().all(u8::is_ascii_whitespace) { after } else { b"" };
        go_json::utf8(&[&self.kept.object(object), after].concat())
    }
}

fn truth(value: &[u8]) -> Option<bool> {
    match value {
        b"true" => Some(true),
        b"false" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
