//! The load key of a request: the model, and the options that make Ollama reload the model when they change.
//!
//! The database stores and compares the text of a key, so the same request must always give the same text.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde_json::value::RawValue;

use crate::context::{Context, NUM_CTX};
use crate::go_json;
use crate::model::{ModelName, ModelNameError};
use crate::object::{self, Members};
use crate::route::{Route, RunKind};

/// The options that make Ollama reload a model when they change, with the types that Ollama expects.
const RELOAD_OPTIONS: [(&str, Kind); 7] = [
    (NUM_CTX, Kind::Integer),
    ("num_batch", Kind::Integer),
    ("num_gpu", Kind::Integer),
    ("main_gpu", Kind::Integer),
    ("num_thread", Kind::Integer),
    ("use_mmap", Kind::Boolean),
    ("draft_num_predict", Kind::Integer),
];

/// The only top-level key that does the same.
const SHIFT: &str = "shift";

/// The value of `num_ctx` in the text of a key that says [`Context::Any`]. No request can have this value.
const ANY: &str = "any";

#[derive(Clone, Copy, Debug)]
enum Kind {
    Integer,
    Boolean,
}

/// A model, together with the options that make Ollama reload it. Jobs with equal keys can run without a reload
/// between them.
///
/// Its text is the canonical name, followed by each given option, sorted: `llama3.2:latest num_ctx=8192 shift=false`. It says
/// `num_ctx=any` for a request that names no context but could carry one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LoadKey {
    model: ModelName,
    settings: BTreeMap<&'static str, Setting>,
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Setting {
    Integer(i64),
    Boolean(bool),
    /// Only of `num_ctx`: any that is long enough for a request that names none.
    Any,
}

/// Why there is no load key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadKeyError {
    #[error("the name of the model {0}: write it as `ollama list` shows it, such as llama3.2:3b")]
    Model(#[from] ModelNameError),
    #[error("`options` must be an object")]
    OptionsType,
    #[error("option `{0}` must be a whole number that fits 64 bits")]
    NotAnInteger(&'static str),
    #[error("`{0}` must be true or false")]
    NotABoolean(&'static str),
    #[error("{0:?} is not a setting of a load key")]
    Unknown(String),
}

impl LoadKey {
    /// How long Ollama keeps a preloaded model after its last request.
    ///
    /// Finite, so that a worker that never comes back does not leave a model on the GPU for ever. Long, because it
    /// stays in force: the bodies of jobs carry no keep-alive of their own.
    pub const KEEP_ALIVE: Duration = Duration::from_secs(30 * 60);

    /// The key of a model without options.
    pub fn of_model(model: ModelName) -> Self {
        Self::new(model, BTreeMap::new())
    }

    /// The key of a request: its model, its raw `options`, and its raw top-level `shift`.
    pub fn of_request(
        model: &str,
        options: Option<&RawValue>,
        shift: Option<&RawValue>,
    ) -> Result<Self, LoadKeyError> {
        let model = ModelName::parse(model)?;
        let mut settings = BTreeMap::new();
        if let Some(options) = options.filter(|raw| raw.get() != "null") {
            let options = Members::parse(options.get()).map_err(|_| LoadKeyError::OptionsType)?;
            for (name, kind) in RELOAD_OPTIONS {
                // Ollama ignores an option that is null.
                if let Some(raw) = options.get(name).filter(|raw| raw.get() != "null") {
                    settings.insert(name, Setting::read(name, kind, raw.get())?);
                }
            }
        }
        if let Some(raw) = shift.filter(|raw| raw.get() != "null") {
            settings.insert(SHIFT, Setting::read(SHIFT, Kind::Boolean, raw.get())?);
        }
        Ok(Self::new(model, settings))
    }

    /// The key of a request that was read as Ollama reads it. `options` holds raw values by name. A value of a wrong type is no
    /// part of the key: Ollama refuses it before it loads anything.
    pub fn with_options(
        model: ModelName,
        options: &BTreeMap<String, &[u8]>,
        shift: Option<bool>,
    ) -> Result<Self, LoadKeyError> {
        let mut settings = BTreeMap::new();
        for (name, kind) in RELOAD_OPTIONS {
            let Some(raw) = options.get(name).and_then(|raw| std::str::from_utf8(raw).ok()) else { continue };
            match Setting::read(name, kind, raw) {
                Ok(setting) => _ = settings.insert(name, setting),
                // Go does not define what becomes of such a number.
                Err(error)
                    if matches!(kind, Kind::Integer)
                        && raw.starts_with(|c: char| c == '-' || c.is_ascii_digit()) =>
                {
                    return Err(error);
                }
                Err(_) => {}
            }
        }
        settings.extend(shift.map(|shift| (SHIFT, Setting::Boolean(shift))));
        Ok(Self::new(model, settings))
    }

    /// Whether an option is part of load keys.
    pub fn depends_on(option: &str) -> bool {
        RELOAD_OPTIONS.iter().any(|(name, _)| *name == option)
    }

    fn new(model: ModelName, settings: BTreeMap<&'static str, Setting>) -> Self {
        let mut text = model.as_str().to_owned();
        for (name, setting) in &settings {
            text.push_str(&format!(" {name}={setting}"));
        }
        Self { model, settings, text }
    }

    pub fn model(&self) -> &ModelName {
        &self.model
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What the key says of the context.
    pub fn context(&self) -> Context {
        match self.settings.get(NUM_CTX) {
            Some(Setting::Integer(length)) => Context::Length(*length),
            Some(Setting::Any) => Context::Any,
            // `num_ctx` is never a truth value.
            Some(Setting::Boolean(_)) | None => Context::Automatic,
        }
    }

    /// The same key with another context.
    pub fn with_context(&self, context: Context) -> Self {
        let mut settings = self.settings.clone();
        match context {
            Context::Automatic => settings.remove(NUM_CTX),
            Context::Any => settings.insert(NUM_CTX, Setting::Any),
            Context::Length(length) => settings.insert(NUM_CTX, Setting::Integer(length)),
        };
        Self::new(self.model.clone(), settings)
    }

    /// The key of a request that names no context, if its body could name one: any context that is long enough serves it.
    /// A model of the cloud has no runner of ours.
    pub(crate) fn or_any_context(self) -> Self {
        if self.context() == Context::Automatic && !self.model.is_cloud() {
            self.with_context(Context::Any)
        } else {
            self
        }
    }

    /// A body that loads exactly this key and generates nothing. It names a context only if the key has a length.
    pub fn preload_body(&self, route: Route) -> String {
        self.empty_request(route, &format!("\"{}s\"", Self::KEEP_ALIVE.as_secs()))
    }

    /// A body that unloads this key as soon as it is idle.
    pub fn unload_body(&self, route: Route) -> String {
        self.empty_request(route, "0")
    }

    /// A request without a prompt, on the route of the job itself, because a model may support only one of the
    /// routes.
    fn empty_request(&self, route: Route, keep_alive: &str) -> String {
        let model = format!("\"{}\"", self.model);
        let named = self.settings.iter().filter(|(_, setting)| **setting != Setting::Any);
        let values: Vec<_> = named.map(|(name, setting)| (*name, setting.to_string())).collect();
        let of = |top_level: bool| {
            values
                .iter()
                .filter(move |(name, _)| (*name == SHIFT) == top_level)
                .map(|(name, v)| (*name, v.as_str()))
        };
        let options = object::write(of(false));
        let mut members = vec![("model", model.as_str())];
        match route.kind() {
            RunKind::Chat => members.push(("messages", "[]")),
            RunKind::Embed => members.push(("input", "[]")),
            RunKind::Generate => {}
        }
        if of(false).next().is_some() {
            members.push(("options", &options));
        }
        members.extend(of(true));
        members.push(("keep_alive", keep_alive));
        object::write(members)
    }
}

impl Setting {
    fn read(name: &'static str, kind: Kind, raw: &str) -> Result<Self, LoadKeyError> {
        match kind {
            Kind::Integer => go_json::integer(raw).map(Self::Integer).ok_or(LoadKeyError::NotAnInteger(name)),
            Kind::Boolean => raw.parse().map(Self::Boolean).map_err(|_| LoadKeyError::NotABoolean(name)),
        }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(number) => number.fmt(f),
            Self::Boolean(truth) => truth.fmt(f),
            Self::Any => f.write_str(ANY),
        }
    }
}

impl fmt::Display for LoadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for LoadKey {
    type Err = LoadKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split(' ');
        let model = ModelName::parse(parts.next().unwrap_or_default())?;
        let mut settings = BTreeMap::new();
        for part in parts {
            let unknown = || LoadKeyError::Unknown(part.to_owned());
            let (name, value) = part.split_once('=').ok_or_else(unknown)?;
            let (name, kind) = RELOAD_OPTIONS
                .into_iter()
                .chain([(SHIFT, Kind::Boolean)])
                .find(|(known, _)| *known == name)
                .ok_or_else(unknown)?;
            let setting = match (name, value) {
                (NUM_CTX, ANY) => Setting::Any,
                _ => Setting::read(name, kind, value)?,
            };
            settings.insert(name, setting);
        }
        Ok(Self::new(model, settings))
    }
}

#[cfg(test)]
mod tests;
