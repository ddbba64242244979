//! Settings from the environment: each declared once as data, read once, and refused in one line.
//!
//! A value must never be guessed at: what cannot be read stops the process and says how to mend it.

mod env;
mod error;
pub mod form;
mod setting;
mod unknown;

pub use env::Env;
pub use error::ConfigError;
pub use form::SecretKey;
pub use setting::{Fallback, Setting};

#[cfg(test)]
mod tests;
