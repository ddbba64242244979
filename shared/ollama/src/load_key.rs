//! The load key of a request: the model, and the options that make Ollama reload the model when they change.
//!
//! The database stores and compares the text of a key, so the same request must always give the same text.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde_json::value::RawValue;

use crate::model::{ModelName, ModelNameError};
use crate::object::{self, Members};
use crate::route::Route;

/// The options that make Ollama reload a model when they change, with the types that Ollama expects.
const RELOAD_OPTIONS: [(&str, Kind); 7] = [
    ("num_ctx", Kind::Integer),
    ("num_batch", Kind::Integer),
    ("num_gpu", Kind::Integer),
    ("main_gpu", Kind::Integer),
    ("num_thread", Kind::Integer),
    ("use_mmap", Kind::Boolean),
    ("draft_num_predict", Kind::Integer),
];

/// The only top-level key that does the same.
const SHIFT: &str = "shift";

#[derive(Clone, Copy, Debug)]
enum Kind {
    Integer,
    Boolean,
}

/// A model, together with the options that make Ollama reload it. Jobs with equal keys can run without a reload
/// between them.
///
/// Its text is the canonical name, followed by each given option, sorted: `llama3.2:latest num_ctx=8192 shift=false`.
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

    /// A body that loads exactly this key and generates nothing.
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
        let values: Vec<_> =
            self.settings.iter().map(|(name, setting)| (*name, setting.to_string())).collect();
        let of = |top_level: bool| {
            values
                .iter()
                .filter(move |(name, _)| (*name == SHIFT) == top_level)
                .map(|(name, v)| (*name, v.as_str()))
        };
        let options = object::write(of(false));
        let mut members = vec![("model", model.as_str())];
        if route == Route::Chat {
            members.push(("messages", "[]"));
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
            Kind::Integer => integer(raw).map(Self::Integer).ok_or(LoadKeyError::NotAnInteger(name)),
            Kind::Boolean => raw.parse().map(Self::Boolean).map_err(|_| LoadKeyError::NotABoolean(name)),
        }
    }
}

/// A JSON number as Ollama turns it into an integer: it drops the fraction.
fn integer(raw: &str) -> Option<i64> {
    if let Ok(number) = raw.parse() {
        return Some(number);
    }
    // Exact in binary. Go does not define the conversion of larger numbers, so no value could be compared.
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    let number = serde_json::from_str::<f64>(raw).ok()?.trunc();
    #[expect(clippy::cast_possible_truncation, reason = "checked against the limits just before")]
    (-LIMIT..LIMIT).contains(&number).then_some(number as i64)
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(number) => number.fmt(f),
            Self::Boolean(truth) => truth.fmt(f),
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
            settings.insert(name, Setting::read(name, kind, value)?);
        }
        Ok(Self::new(model, settings))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(model: &str, options: &str, shift: &str) -> Result<LoadKey, LoadKeyError> {
        let raw = |text: &str| (!text.is_empty()).then(|| RawValue::from_string(text.to_owned()).unwrap());
        LoadKey::of_request(model, raw(options).as_deref(), raw(shift).as_deref())
    }

    #[test]
    fn only_what_reloads_is_in_the_key_and_always_in_one_form() {
        for (model, options, shift, text) in [
            ("Llama3.2", "", "", "llama3.2:latest"),
            ("a", "null", "null", "a:latest"),
            ("a", r#"{"seed":7,"temperature":0,"num_keep":4,"use_mlock":true,"NUM_CTX":9}"#, "", "a:latest"),
            (
                "a",
                r#"{"use_mmap":false,"num_gpu":-1,"num_ctx":4096}"#,
                "true",
                "a:latest num_ctx=4096 num_gpu=-1 shift=true use_mmap=false",
            ),
            ("a", r#"{"num_ctx":2048.9}"#, "", "a:latest num_ctx=2048"),
            ("a", r#"{"num_ctx":2.048e3}"#, "", "a:latest num_ctx=2048"),
            ("a", r#"{"num_ctx":1,"num_ctx":2}"#, "", "a:latest num_ctx=2"),
            ("a", r#"{"num_ctx":null,"num_batch":8}"#, "", "a:latest num_batch=8"),
            (
                "a",
                r#"{"draft_num_predict":1,"num_thread":2,"main_gpu":3,"num_gpu":4,"num_batch":5,"num_ctx":6,"use_mmap":true}"#,
                "false",
                "a:latest draft_num_predict=1 main_gpu=3 num_batch=5 num_ctx=6 num_gpu=4 num_thread=2 shift=false use_mmap=true",
            ),
        ] {
            let key = key(model, options, shift).unwrap();
            assert_eq!(key.as_str(), text);
            assert_eq!(text.parse::<LoadKey>().unwrap(), key, "the stored text gives the key back");
        }
    }

    #[test]
    fn a_key_stays_small_whatever_is_sent() {
        for (options, shift, error) in [
            (r#"{"num_ctx":"big"}"#, "", LoadKeyError::NotAnInteger("num_ctx")),
            (r#"{"num_ctx":1e400}"#, "", LoadKeyError::NotAnInteger("num_ctx")),
            (r#"{"num_ctx":9223372036854775808}"#, "", LoadKeyError::NotAnInteger("num_ctx")),
            (r#"{"num_ctx":[1]}"#, "", LoadKeyError::NotAnInteger("num_ctx")),
            (r#"{"use_mmap":1}"#, "", LoadKeyError::NotABoolean("use_mmap")),
            ("{}", "0", LoadKeyError::NotABoolean("shift")),
            ("[1]", "", LoadKeyError::OptionsType),
            ("5", "", LoadKeyError::OptionsType),
        ] {
            assert_eq!(key("a", options, shift), Err(error), "{options} {shift}");
        }
        assert_eq!(key("a b", "", ""), Err(LoadKeyError::Model(ModelNameError::Character)));
        for text in [
            "a:latest ",
            "a:latest x=1",
            "a:latest num_ctx",
            "a:latest num_ctx=x",
            "",
            "a:latest  shift=true",
        ] {
            assert!(text.parse::<LoadKey>().is_err(), "{text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn every_key_is_found_again_by_its_text(
            model in "[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}(:[a-z0-9]{1,8})?",
            num_ctx in proptest::option::of(proptest::prelude::any::<i64>()),
            num_gpu in proptest::option::of(-1_i64..100),
            use_mmap in proptest::option::of(proptest::prelude::any::<bool>()),
            shift in proptest::option::of(proptest::prelude::any::<bool>()),
        ) {
            let options = serde_json::json!({ "num_ctx": num_ctx, "use_mmap": use_mmap, "num_gpu": num_gpu });
            let made = key(&model, &options.to_string(), &serde_json::json!(shift).to_string()).unwrap();
            proptest::prop_assert_eq!(&made.as_str().parse::<LoadKey>().unwrap(), &made);
            // A preload is a request with the same key.
            let body: serde_json::Value = serde_json::from_str(&made.preload_body(Route::Chat)).unwrap();
            let part = |name: &str| body.get(name).map(ToString::to_string).unwrap_or_default();
            let again = key(body["model"].as_str().unwrap(), &part("options"), &part("shift")).unwrap();
            proptest::prop_assert_eq!(again, made);
        }
    }

    #[test]
    fn preloads_carry_the_key_and_nothing_else() {
        let key: LoadKey = "a:latest num_ctx=6 shift=false use_mmap=true".parse().unwrap();
        assert_eq!(
            key.preload_body(Route::Chat),
            r#"{"model":"a:latest","messages":[],"options":{"num_ctx":6,"use_mmap":true},"shift":false,"keep_alive":"1800s"}"#
        );
        assert_eq!(
            key.unload_body(Route::Generate),
            r#"{"model":"a:latest","options":{"num_ctx":6,"use_mmap":true},"shift":false,"keep_alive":0}"#
        );
        let bare = LoadKey::of_model(ModelName::parse("a").unwrap());
        assert_eq!(bare.preload_body(Route::Generate), r#"{"model":"a:latest","keep_alive":"1800s"}"#);
    }
}
