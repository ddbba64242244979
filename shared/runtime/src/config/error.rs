//! What is wrong with a setting, always in one line.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::Setting;

/// Longer values are cut in messages.
const SHOWN_CHARS: usize = 80;

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{name} is not set; set it (or {name}_FILE to a file that holds it) to: {help}")]
    Missing { name: &'static str, help: &'static str },
    #[error("{name} and {name}_FILE are both set; keep one of them")]
    Both { name: &'static str },
    #[error("{name}_FILE: {path:?} cannot be read ({source}); mend the path or its permissions")]
    File { name: &'static str, path: PathBuf, source: io::Error },
    #[error("{name}_FILE: {path:?} is empty; write the value into it, or unset {name}_FILE")]
    EmptyFile { name: &'static str, path: PathBuf },
    #[error("{name} is not valid UTF-8; write it as plain text")]
    NotUtf8 { name: &'static str },
    #[error("{name}{value}: {problem}")]
    Invalid { name: &'static str, value: ShownValue, problem: String },
}

/// The value as far as it may be shown: nothing of a secret, and never a line break.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownValue(Option<String>);

impl ConfigError {
    /// For rules between settings, such as "off needs a loopback address". `problem` says what to do instead.
    pub fn refused(setting: &Setting, problem: impl fmt::Display) -> Self {
        Self::Invalid { name: setting.name, value: ShownValue(None), problem: one_line(problem) }
    }

    pub(super) fn invalid(setting: &Setting, value: &str, problem: impl fmt::Display) -> Self {
        let shown = (!setting.is_secret).then(|| value.chars().take(SHOWN_CHARS).collect());
        Self::Invalid { name: setting.name, value: ShownValue(shown), problem: one_line(problem) }
    }
}

impl fmt::Display for ShownValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(value) => write!(f, " is {value:?}"),
            None => Ok(()),
        }
    }
}

fn one_line(text: impl fmt::Display) -> String {
    text.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}
