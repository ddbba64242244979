//! A finding: a sentence that says how things are and, where something is wrong, a line that says how to mend it.

use std::iter;

use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    Ok,
    /// Worth knowing; nothing is lost by leaving it so.
    Note,
    Trouble,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) level: Level,
    pub(super) what: String,
    /// As a command where there is one.
    pub(super) mend: Option<String>,
}

impl Finding {
    pub(super) fn ok(what: impl Into<String>) -> Self {
        Self { level: Level::Ok, what: what.into(), mend: None }
    }

    pub(super) fn note(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { level: Level::Note, what: what.into(), mend: Some(mend.into()) }
    }

    pub(super) fn trouble(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { level: Level::Trouble, what: what.into(), mend: Some(mend.into()) }
    }
}

/// One finding can stand wherever several can.
impl IntoIterator for Finding {
    type Item = Self;
    type IntoIter = iter::Once<Self>;

    fn into_iter(self) -> Self::IntoIter {
        iter::once(self)
    }
}

/// "1 job", "2 jobs".
pub(super) fn count(number: impl TryInto<i64>, one: &str) -> String {
    plural(number, one, &format!("{one}s"))
}

/// "1 job waits", "2 jobs wait".
pub(super) fn plural(number: impl TryInto<i64>, one: &str, many: &str) -> String {
    match number.try_into().unwrap_or(i64::MAX) {
        1 => format!("1 {one}"),
        number => format!("{number} {many}"),
    }
}
