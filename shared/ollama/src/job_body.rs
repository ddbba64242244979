//! The body of `POST /jobs`: parsed strictly, and split into our own fields and the payload for Ollama.
//!
//! Must be strict, because Ollama is not: Ollama takes the last of repeated keys, ignores the case of keys, and
//! ignores bytes after the object. A lenient parser could queue one model while Ollama runs another.
//!
//! Must never decode and encode the payload again: every key that is not ours keeps its place and the bytes of its
//! value.

use std::collections::HashSet;

use serde::Deserialize as _;
use serde_json::value::RawValue;

use crate::go_json::folds_to;
use crate::load_key::{LoadKey, LoadKeyError};
use crate::object::{self, Member, Members};
use crate::route::Route;

/// The fields of a job that belong to Foreman and never reach Ollama.
pub const OWN_FIELDS: [&str; 8] = [
    "state_webhook_url",
    "webhook_events",
    "priority",
    "metadata",
    "run_at",
    "expires_at",
    "max_attempts",
    "idempotency_key",
];

/// The keys of the payload that Foreman reads.
const READ_KEYS: [&str; 7] = ["model", "messages", "prompt", "stream", "options", "keep_alive", "shift"];

/// The deepest nesting of a body. No chat or schema comes near it, and every later JSON parser supports this depth.
const MAX_DEPTH: usize = 100;

/// The body of a job, after it was checked.
#[derive(Clone, Debug)]
pub struct JobBody {
    /// Chat for `messages`, generate for `prompt`.
    pub route: Route,
    /// The model as the client wrote it. Ollama's answer will repeat this spelling.
    pub model: String,
    pub load_key: LoadKey,
    /// What Ollama gets, and what is stored: our fields and `keep_alive` removed, `stream` set.
    pub payload: String,
    own: Vec<(&'static str, Box<RawValue>)>,
}

/// Why a body cannot become a job. The text is for the client.
#[derive(Debug, thiserror::Error)]
pub enum JobBodyError {
    #[error("the request has no body: send one JSON object with `model` and `messages` or `prompt`")]
    Empty,
    #[error("the body is not UTF-8 from byte {0} on: encode it as UTF-8")]
    NotUtf8(usize),
    #[error("the body begins with a byte order mark: send it without one")]
    ByteOrderMark,
    #[error("the body is not JSON: {0}")]
    NotJson(serde_json::Error),
    #[error("the body is not a JSON object: send one object with `model` and `messages` or `prompt`")]
    NotAnObject,
    #[error("something follows the JSON object: send one object and nothing after it")]
    TrailingData,
    #[error("the body is nested deeper than {MAX_DEPTH} levels: flatten it")]
    TooDeep,
    #[error("an object of the body has more than {} keys: send fewer", object::MAX_KEYS)]
    TooManyKeys,
    #[error("the key `{0}` is given more than once: give it once")]
    RepeatedKey(String),
    #[error("the key `{written}` must be written `{meant}`")]
    OtherCase { written: String, meant: &'static str },
    #[error("`model` is missing: name a model, as `ollama list` shows it")]
    ModelMissing,
    #[error("`model` must be a string that is not empty")]
    ModelType,
    #[error("`model` must not contain the NUL character")]
    ModelNul,
    #[error("{0}")]
    LoadKey(#[from] LoadKeyError),
    #[error("`messages` or `prompt` is missing: send `messages` for a chat, or `prompt` to generate")]
    NothingToRun,
    #[error("`messages` and `prompt` are both given: send one of them")]
    TwoThingsToRun,
    #[error("`messages` must be an array of at least one message")]
    Messages,
    #[error("`prompt` must be a string that is not empty")]
    Prompt,
    #[error("`stream` must be true or false; a job always streams from Ollama")]
    Stream,
}

impl JobBodyError {
    /// The stable name of the error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Empty => "body_missing",
            Self::NotUtf8(_) | Self::ByteOrderMark => "not_utf8",
            Self::NotJson(_) => "not_json",
            Self::NotAnObject => "not_an_object",
            Self::TrailingData => "trailing_data",
            Self::TooDeep => "too_deep",
            Self::TooManyKeys => "too_many_keys",
            Self::RepeatedKey(_) => "repeated_key",
            Self::OtherCase { .. } => "key_in_other_case",
            Self::ModelMissing => "model_missing",
            Self::ModelType | Self::ModelNul | Self::LoadKey(LoadKeyError::Model(_)) => "invalid_model",
            Self::LoadKey(_) => "invalid_options",
            Self::NothingToRun => "nothing_to_run",
            Self::TwoThingsToRun => "two_things_to_run",
            Self::Messages => "invalid_messages",
            Self::Prompt => "invalid_prompt",
            Self::Stream => "invalid_stream",
        }
    }
}

impl JobBody {
    pub fn parse(body: &[u8]) -> Result<Self, JobBodyError> {
        let text = std::str::from_utf8(body).map_err(|error| JobBodyError::NotUtf8(error.valid_up_to()))?;
        let members = read_object(text)?;
        check_keys(&members)?;

        // Like Ollama, treat null as "not given". The model is the exception, because it has no default.
        let given = |key| members.get(key).filter(|raw| raw.get() != "null");
        let model = read_model(members.get("model").ok_or(JobBodyError::ModelMissing)?)?;
        let load_key = LoadKey::of_request(&model, given("options"), given("shift"))?.or_any_context();
        let route = match (given("messages"), given("prompt")) {
            (Some(_), Some(_)) => return Err(JobBodyError::TwoThingsToRun),
            (None, None) => return Err(JobBodyError::NothingToRun),
            (Some(messages), None) => {
                is_full_array(messages).then_some(Route::Chat).ok_or(JobBodyError::Messages)?
            }
            (None, Some(prompt)) => {
                is_full_string(prompt).then_some(Route::Generate).ok_or(JobBodyError::Prompt)?
            }
        };
        if given("stream").is_some_and(|raw| !matches!(raw.get(), "true" | "false")) {
            return Err(JobBodyError::Stream);
        }
        let own = OWN_FIELDS
            .into_iter()
            .filter_map(|field| members.get(field).map(|value| (field, value.to_owned())))
            .collect();
        Ok(Self { route, model, load_key, payload: payload(&members), own })
    }

    /// The raw value of one of [`OWN_FIELDS`], if the client gave it.
    pub fn own(&self, field: &str) -> Option<&RawValue> {
        self.own.iter().find(|(name, _)| *name == field).map(|(_, value)| value.as_ref())
    }
}

fn read_object(text: &str) -> Result<Members<'_>, JobBodyError> {
    let start = text.trim_start_matches([' ', '\t', '\n', '\r']);
    match start.chars().next() {
        None => return Err(JobBodyError::Empty),
        Some('\u{feff}') => return Err(JobBodyError::ByteOrderMark),
        Some('{') => {}
        Some(_) => {
            return Err(match serde_json::from_str::<&RawValue>(text) {
                Ok(_) => JobBodyError::NotAnObject,
                Err(error) => JobBodyError::NotJson(error),
            });
        }
    }
    if object::depth(text) > MAX_DEPTH {
        return Err(JobBodyError::TooDeep);
    }
    let mut reader = serde_json::Deserializer::from_str(text);
    let members = Members::deserialize(&mut reader).map_err(|error| {
        // Of a valid JSON object `Members` refuses nothing except too many keys.
        if error.is_data() { JobBodyError::TooManyKeys } else { JobBodyError::NotJson(error) }
    })?;
    reader.end().map_err(|_| JobBodyError::TrailingData)?;
    Ok(members)
}

fn check_keys(members: &Members<'_>) -> Result<(), JobBodyError> {
    let mut seen = HashSet::with_capacity(members.0.len());
    for Member { key, .. } in &members.0 {
        if !seen.insert(key.as_ref()) {
            return Err(JobBodyError::RepeatedKey(excerpt(key)));
        }
        let meant = READ_KEYS.into_iter().chain(OWN_FIELDS).find(|known| folds_to(key, known));
        if let Some(meant) = meant.filter(|known| key != known) {
            return Err(JobBodyError::OtherCase { written: excerpt(key), meant });
        }
    }
    Ok(())
}

/// A piece of the client's own text for an error message, short enough for a log line and a terminal.
fn excerpt(key: &str) -> String {
    key.chars().take(64).collect()
}

fn read_model(raw: &RawValue) -> Result<String, JobBodyError> {
    let model: String = serde_json::from_str(raw.get()).map_err(|_| JobBodyError::ModelType)?;
    match model {
        empty if empty.is_empty() => Err(JobBodyError::ModelType),
        nul if nul.contains('\0') => Err(JobBodyError::ModelNul),
        model => Ok(model),
    }
}

/// Whether a value is an array that is not empty. The value is valid JSON, so its first bytes are enough.
fn is_full_array(raw: &RawValue) -> bool {
    raw.get().strip_prefix('[').is_some_and(|rest| !rest.trim_start().starts_with(']'))
}

fn is_full_string(raw: &RawValue) -> bool {
    raw.get().starts_with('"') && raw.get() != "\"\""
}

fn payload(members: &Members<'_>) -> String {
    let mut kept: Vec<(&str, &str)> = members
        .0
        .iter()
        .filter(|member| member.key != "keep_alive" && !OWN_FIELDS.contains(&member.key.as_ref()))
        .map(|member| (member.key.as_ref(), member.value.get()))
        .collect();
    match kept.iter_mut().find(|(key, _)| *key == "stream") {
        Some((_, value)) => *value = "true",
        None => kept.push(("stream", "true")),
    }
    object::write(kept)
}

#[cfg(test)]
mod tests;
