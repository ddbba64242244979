//! The declaration of a setting. The services parse it, `--help` prints it, and a test compares the README with it.

/// One environment variable. `NAME_FILE` may name a file with the value instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    pub name: &'static str,
    pub fallback: Fallback,
    /// A phrase without a full stop: the meaning of the setting, its unit or form, and the values that it may have.
    pub help: &'static str,
    /// No error shows the value.
    pub is_secret: bool,
}

/// What applies if the variable is not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// The process stops.
    Required,
    /// This value, in the form that the variable has.
    Value(&'static str),
    /// A value that the program works out, or no value. The text describes it in `--help`.
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
