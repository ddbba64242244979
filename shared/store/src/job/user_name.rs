//! Users: those for whom a client submits its jobs. One key may stand for a whole chat server, and its users share what the
//! client gets.
//!
//! Must never hold a name that Postgres or a log could not show.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The name of a user within a client. The default is the user of all jobs that name none: the empty name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, sqlx::Type)]
#[sqlx(transparent, no_pg_array)]
pub struct UserName(Arc<str>);

/// The text is no name of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a user's name has at most {} bytes, no control characters, and not only blanks; choose another",
    UserName::MAX_BYTES
)]
pub struct InvalidUserName;

impl UserName {
    /// Room for any id, email address or UUID. Each waiting job carries the name in an index.
    pub const MAX_BYTES: usize = 128;

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name, unless it is that of the jobs that name no user.
    pub fn named(&self) -> Option<&str> {
        Some(self.as_str()).filter(|name| !name.is_empty())
    }
}

impl Default for UserName {
    fn default() -> Self {
        Self("".into())
    }
}

impl FromStr for UserName {
    type Err = InvalidUserName;

    fn from_str(text: &str) -> Result<Self, InvalidUserName> {
        let is_blank = !text.is_empty() && text.trim().is_empty();
        if is_blank || text.len() > Self::MAX_BYTES || text.contains(char::is_control) {
            return Err(InvalidUserName);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_short_and_printable() {
        let longest = "é".repeat(UserName::MAX_BYTES / 2);
        for name in ["", "ada", "Ada Lovelace", "ada@example.com", &longest] {
            assert_eq!(name.parse::<UserName>().unwrap().as_str(), name);
        }
        for text in [&format!("{longest}a"), "a\0b", "a\nb", "\u{85}", " ", "\u{a0}\u{3000}"] {
            assert_eq!(text.parse::<UserName>(), Err(InvalidUserName), "{text:?}");
        }
        assert_eq!(UserName::default().named(), None);
    }
}
