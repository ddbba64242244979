//! Logs: one line where a failure is handled, on standard error, for people or for machines.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{ConfigError, Env, form};
use crate::settings::shared::{LOG, LOG_FORMAT};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Text,
    Json,
}

/// What `FOREMAN_LOG` and `FOREMAN_LOG_FORMAT` say.
#[derive(Debug)]
pub struct Logging {
    filter: EnvFilter,
    format: Format,
}

impl Logging {
    pub fn read(env: &Env) -> Result<Self, ConfigError> {
        let format =
            env.read_optional(&LOG_FORMAT, form::choice(&[("text", Format::Text), ("json", Format::Json)]))?;
        let on_terminal = io::stderr().is_terminal();
        Ok(Self {
            filter: env.read(&LOG, |text| {
                EnvFilter::builder().parse(text).map_err(|error| {
                    format!("expected a filter such as info or info,foreman_store=debug ({error})")
                })
            })?,
            format: format.unwrap_or(if on_terminal { Format::Text } else { Format::Json }),
        })
    }

    /// From here on everything logged is written, panics included. A second call in one process changes nothing.
    pub fn start(self) {
        let builder = tracing_subscriber::fmt().with_env_filter(self.filter).with_writer(io::stderr);
        let started = match self.format {
            Format::Text => builder.with_ansi(io::stderr().is_terminal()).finish().try_init(),
            Format::Json => builder.json().flatten_event(true).with_current_span(false).finish().try_init(),
        };
        if started.is_ok() {
            std::panic::set_hook(Box::new(log_panic));
        }
    }
}

/// The default hook writes several lines that no log reader puts together.
fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let text = panic.payload_as_str().unwrap_or("no message");
    let backtrace = std::backtrace::Backtrace::capture();
    tracing::error!(panic.place = place, panic.backtrace = %backtrace, "a thread panicked: {text}");
}
