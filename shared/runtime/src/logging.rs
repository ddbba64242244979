//! Logs, on standard error, as text for people or as JSON for machines. A failure is one line, written where it is handled.
//! Each line has the fields of the spans around it, so that code inside a span need not name its job.

mod flat_json;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal};
use std::panic::{self, PanicHookInfo};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{ConfigError, Env, form};
use crate::settings::shared::{LOG, LOG_FORMAT};
use flat_json::FlatJson;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Text,
    Json,
}

/// The values of `FOREMAN_LOG` and `FOREMAN_LOG_FORMAT`.
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
            filter: env.read(&LOG, filter)?,
            format: format.unwrap_or(if on_terminal { Format::Text } else { Format::Json }),
        })
    }

    /// Starts writing logs, including panics. A second call in one process changes nothing.
    pub fn start(self) {
        let builder = tracing_subscriber::fmt().with_env_filter(self.filter).with_writer(io::stderr);
        let started = match self.format {
            Format::Text => builder.with_ansi(io::stderr().is_terminal()).finish().try_init(),
            Format::Json => builder.fmt_fields(FlatJson).event_format(FlatJson).finish().try_init(),
        };
        if started.is_ok() {
            panic::set_hook(Box::new(log_panic));
        }
    }
}

/// Parses a filter strictly. The library would take a misspelt level for the name of a module, and log only that module.
fn filter(text: &str) -> Result<EnvFilter, String> {
    let expected = "expected a level (off, error, warn, info, debug, trace) or module=level, separated by commas, \
                    such as info,foreman_store=debug";
    let parts: Vec<_> = text.split(',').map(str::trim).collect();
    // The library takes an empty text for a level.
    let is_level = |part: &str| !part.is_empty() && part.parse::<LevelFilter>().is_ok();
    let misspelt = |part: &&str| !part.contains(['=', '[', ']']) && !is_level(part);
    if parts.iter().any(misspelt) {
        return Err(expected.to_owned());
    }
    EnvFilter::builder().parse(parts.join(",")).map_err(|_| expected.to_owned())
}

/// Logs a panic as one line. The default hook writes several lines, which log readers do not join.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let text = panic.payload_as_str().unwrap_or("no message");
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    tracing::error!(panic.place = place, panic.backtrace = backtrace, "a thread panicked: {text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_level_is_refused_instead_of_silencing_everything() {
        for text in
            ["info", "off", "INFO", "info,foreman_store=debug", "warn, sqlx=off", "info,[request{id}]=trace"]
        {
            assert!(filter(text).is_ok(), "{text}");
        }
        for text in ["inof", "verbose", "info,sqlx", "info,foreman_store=debgu", ",", "=", "a=b=c"] {
            assert!(filter(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_format_is_one_of_two() {
        let read = |format| Logging::read(&Env::from_pairs([("FOREMAN_LOG_FORMAT", format)]));
        assert_eq!(read("json").unwrap().format, Format::Json);
        assert_eq!(read("text").unwrap().format, Format::Text);
        assert_eq!(
            read("yaml").unwrap_err().to_string(),
            r#"FOREMAN_LOG_FORMAT is "yaml": expected text or json"#
        );
    }
}
