//! Settings from the environment. Each setting is declared once, as data, and read once.
//!
//! Must never guess a value: a value that cannot be read stops the process with one line, which says how to mend it.

mod env;
mod error;
pub mod form;
mod setting;
mod unknown;

pub use env::Env;
pub use error::ConfigError;
pub use form::{SecretKey, SecretKeys};
pub use setting::{Fallback, Setting};

#[cfg(test)]
mod tests;
