//! How a process of Foreman is configured, started, observed and stopped.
//!
//! This crate must never know what a job is. The services bring their settings, their metrics and their tasks.

pub mod config;
pub mod settings;

pub mod program;

pub mod logging;
pub mod metrics;
pub mod tls;

pub mod background;
pub mod shutdown;
pub mod stalls;

mod descriptors;
pub mod http;
pub mod ops;

pub use config::{ConfigError, Env, Setting};
pub use program::{Process, Program};
pub use shutdown::Shutdown;

#[doc(hidden)]
pub use tracing as __tracing;
