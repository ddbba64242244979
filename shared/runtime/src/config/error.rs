//! Why a setting cannot be used. An error is one line, and never shows a secret.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::Setting;

/// A message shows this many characters of a value at most.
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

/// The part of a value that a message may show: nothing of a secret, and never a line break.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownValue(Option<String>);

impl ConfigError {
    /// For rules between two settings, such as "off needs a loopback address". `problem` says what to do instead.
    pub fn refused(setting: &Setting, problem: impl fmt::Display) -> Self {
        Self::Invalid { name: setting.name, value: ShownValue(None), problem: one_line(problem) }
    }

    pub(super) fn invalid(setting: &Setting, value: &str, problem: impl fmt::Display) -> Self {
        let problem = one_line(problem);
        // The parser of a secret never repeats the value in its error. Other parsers may.
        let (shown, problem) = if setting.is_secret {
            (None, problem)
        } else if value.contains('@') {
            (Some(without_user(value)), without_user(&problem))
        } else {
            (Some(value.to_owned()), problem)
        };
        let shown = shown.map(|value| value.chars().take(SHOWN_CHARS).collect());
        Self::Invalid { name: setting.name, value: ShownValue(shown), problem }
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

/// Removes the user and the password from a URL, or from a sentence that contains one. Removes everything up to the last
/// `@`, because the text may not be a URL at all, and a password may contain any character.
fn without_user(text: &str) -> String {
    let Some((before, host)) = text.rsplit_once('@') else { return text.to_owned() };
    let scheme = before.find("://").map_or("", |at| &before[..at + 3]);
    format!("{scheme}…@{host}")
}

fn one_line(text: impl fmt::Display) -> String {
    text.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_url_is_told_without_its_password() {
        const URL: Setting = Setting::optional("FOREMAN_PUBLIC_URL", "none", "a URL");
        for (value, told) in [
            ("ftp://me:hush@host/path", "ftp://…@host/path"),
            ("me:hush@host", "…@host"),
            ("http://me:hu/sh@sh@host", "http://…@host"),
            ("me:hush hush@http://host", "…@http://host"),
        ] {
            let error = ConfigError::invalid(&URL, value, format!("{value:?} is no URL"));
            let text = error.to_string();
            assert!(text.starts_with(&format!("FOREMAN_PUBLIC_URL is {told:?}: ")), "{text}");
            assert!(
                text.ends_with(" is no URL") && !text.contains("hush") && !text.contains("sh@"),
                "{text}"
            );
        }
        let plain = ConfigError::invalid(&URL, "ftp://host", "wrong").to_string();
        assert_eq!(plain, r#"FOREMAN_PUBLIC_URL is "ftp://host": wrong"#);
    }
}
