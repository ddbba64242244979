//! The declaration of a setting, from which it is parsed, `--help` is printed and the README is checked.

/// One environment variable. Its value may also stand in a file that `NAME_FILE` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    pub name: &'static str,
    pub fallback: Fallback,
    /// A phrase without a full stop: what it is, its unit or form, and what it may be.
    pub help: &'static str,
    /// Never shown in an error.
    pub is_secret: bool,
}

/// What holds where the variable is not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// The process stops.
    Required,
    /// This value, written as one would write the variable.
    Value(&'static str),
    /// Something worked out by the program, or nothing; in words for `--help`.
    Described(&'static str),
}

impl Setting {
    pub const fn required(name: &'static str, help: &'static str) -> Self {
        Self { name, fallback: Fallback::Required, help, is_secret: false }
    }

    pub const fn with_default(name: &'static str, value: &'static str, help: &'static str) -> Self {
        Self { name, fallback: Fallback::Value(value), help, is_secret: false }
    }

    pub const fn optional(name: &'static str, otherwise: &'static str, help: &'static str) -> Self {
        Self { name, fallback: Fallback::Described(otherwise), help, is_secret: false }
    }

    pub const fn secret(self) -> Self {
        Self { is_secret: true, ..self }
    }

    /// The default as `--help` and the README show it.
    pub const fn default_text(&self) -> &'static str {
        match self.fallback {
            Fallback::Required => "required",
            Fallback::Value(text) | Fallback::Described(text) => text,
        }
    }

    pub(crate) fn file_name(&self) -> String {
        format!("{}_FILE", self.name)
    }
}
