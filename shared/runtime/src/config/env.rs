//! Reading settings from the environment.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::PathBuf;

use super::{ConfigError, Fallback, Setting};

/// The environment as it was when the process started.
///
/// A variable that is set to nothing counts as not set, because `${NAME:-}` in a compose file sets it to nothing.
#[derive(Debug)]
pub struct Env {
    variables: BTreeMap<String, OsString>,
    read: RefCell<BTreeSet<&'static str>>,
}

impl Env {
    pub fn from_process() -> Self {
        // A name that is not UTF-8 is not one of Foreman's.
        Self::collect(std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value))))
    }

    /// For tests, and for programs that start services inside their own process.
    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        Self::collect(pairs.into_iter().map(|(name, value)| (name.to_owned(), value.into())))
    }

    fn collect(variables: impl Iterator<Item = (String, OsString)>) -> Self {
        Self {
            variables: variables.filter(|(_, value)| !value.is_empty()).collect(),
            read: RefCell::default(),
        }
    }

    /// Reads a setting that must have a value. `form` parses the value, or says what it expected.
    pub fn read<T, E: fmt::Display>(
        &self,
        setting: &Setting,
        form: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<T, ConfigError> {
        self.read_optional(setting, form)?
            .ok_or(ConfigError::Missing { name: setting.name, help: setting.help })
    }

    /// Reads a setting that may be left out. Never `None` for a setting with a default value.
    pub fn read_optional<T, E: fmt::Display>(
        &self,
        setting: &Setting,
        form: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<Option<T>, ConfigError> {
        self.read.borrow_mut().insert(setting.name);
        let text = match (self.text(setting)?, setting.fallback) {
            (Some(text), _) => text,
            (None, Fallback::Value(value)) => value.to_owned(),
            (None, Fallback::Required | Fallback::Described(_)) => return Ok(None),
        };
        form(&text).map(Some).map_err(|problem| ConfigError::invalid(setting, &text, problem))
    }

    /// The names of those `settings` that nobody has read. With this, a service's test proves that the service reads
    /// every setting that its `--help` lists.
    pub fn unread(&self, settings: &[&[Setting]]) -> Vec<&'static str> {
        let read = self.read.borrow();
        settings
            .iter()
            .copied()
            .flatten()
            .map(|setting| setting.name)
            .filter(|name| !read.contains(name))
            .collect()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.variables.keys().map(String::as_str)
    }

    fn text(&self, setting: &Setting) -> Result<Option<String>, ConfigError> {
        let name = setting.name;
        match (self.variables.get(name), self.variables.get(&setting.file_name())) {
            (Some(_), Some(_)) => Err(ConfigError::Both { name }),
            (Some(value), None) => {
                value.to_str().map(|text| Some(text.to_owned())).ok_or(ConfigError::NotUtf8 { name })
            }
            (None, Some(path)) => read_file(name, path.into()).map(Some),
            (None, None) => Ok(None),
        }
    }
}

/// The contents without one line break at the end, which editors and `echo` add.
fn read_file(name: &'static str, path: PathBuf) -> Result<String, ConfigError> {
    let text =
        fs::read_to_string(&path).map_err(|source| ConfigError::File { name, path: path.clone(), source })?;
    let text = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
    if text.is_empty() { Err(ConfigError::EmptyFile { name, path }) } else { Ok(text.to_owned()) }
}
