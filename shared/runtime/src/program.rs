//! The frame of a service's `main`: arguments, settings, logs, signals, tasks, exit status.
//!
//! A service brings two functions: one that reads its settings, before anything else happens, and one that starts
//! its tasks. Exit status: 0 asked to stop and did, 1 failed, 2 misconfigured, 128 + n ended by a second signal n.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use tokio::runtime;

use crate::background::{self, one_line};
use crate::config::{ConfigError, Env, Setting};
use crate::descriptors;
use crate::http;
use crate::logging::Logging;
use crate::metrics::{Metric, Metrics};
use crate::ops::{self, Readiness};
use crate::settings;
use crate::shutdown::signals::Signals;
use crate::shutdown::{Ended, Shutdown};
use crate::stalls;
use crate::tls;

/// Every service has these beside its own.
const OWN_METRICS: &[&[Metric]] = &[&[background::BACKGROUND_ERRORS, stalls::STALLED], http::METRICS];

const FAILED: u8 = 1;
const MISCONFIGURED: u8 = 2;

/// What a service is, as data.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    pub name: &'static str,
    /// One sentence.
    pub about: &'static str,
    pub version: &'static str,
    /// What `--help` lists and the service reads.
    pub settings: &'static [&'static [Setting]],
    pub metrics: &'static [&'static [Metric]],
}

/// What a service works with while it runs.
#[derive(Clone)]
pub struct Process {
    pub shutdown: Shutdown,
    pub metrics: Metrics,
}

impl Program {
    /// Runs the service from its arguments and environment to its end.
    ///
    /// `configure` reads settings and does nothing else. `start` connects, binds and spawns tasks on
    /// `process.shutdown`, then returns; it is dropped where a signal comes first.
    pub fn run<C>(
        &self,
        configure: impl FnOnce(&Env) -> Result<C, ConfigError>,
        start: impl AsyncFnOnce(C, &Process) -> anyhow::Result<()>,
    ) -> ExitCode {
        match self.asked(std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned()))
        {
            Asked::Run => self.configure_and_run(&Env::from_process(), configure, start),
            Asked::Say(text) => say(&text),
            Asked::Nonsense(argument) => {
                complain(&format!(
                    "{}: {argument:?} is not known; settings are environment variables, see {} --help",
                    self.name, self.name
                ));
                ExitCode::from(MISCONFIGURED)
            }
        }
    }

    /// The text of `--help`, made from the same declarations that are parsed.
    pub fn help(&self) -> String {
        let mut text = format!("{}\n\nUsage: {} [--help | --version]\n\n", self.about, self.name);
        text.push_str("Settings are environment variables; NAME_FILE names a file that holds the value.\n");
        for setting in self.settings.iter().copied().flatten() {
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "\n  {}\n      {}\n      default: {}\n",
                setting.name,
                setting.help,
                setting.default_text()
            );
        }
        text
    }

    fn asked(&self, mut arguments: impl Iterator<Item = String>) -> Asked {
        match arguments.next().as_deref() {
            None => Asked::Run,
            Some("--help" | "-h" | "help") => Asked::Say(self.help()),
            Some("--version" | "-V") => Asked::Say(format!("{} {}\n", self.name, self.version)),
            Some(other) => Asked::Nonsense(other.to_owned()),
        }
    }

    fn configure_and_run<C>(
        &self,
        env: &Env,
        configure: impl FnOnce(&Env) -> Result<C, ConfigError>,
        start: impl AsyncFnOnce(C, &Process) -> anyhow::Result<()>,
    ) -> ExitCode {
        let read = || Ok((Logging::read(env)?, settings::shared::shutdown_grace(env)?, configure(env)?));
        let (logging, grace, config) = match read() {
            Ok(read) => read,
            Err(error) => return self.give_up(MISCONFIGURED, ConfigError::into(error)),
        };
        logging.start();
        for line in env.unknown(&[settings::ALL, self.settings].concat()) {
            tracing::warn!("{line}");
        }
        descriptors::raise();
        tls::install();
        let declared: Vec<_> = OWN_METRICS.iter().chain(self.metrics).copied().collect();
        let process = Process { shutdown: Shutdown::new(), metrics: Metrics::install(&declared) };
        let runtime = match runtime::Builder::new_multi_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return self.give_up(FAILED, error.into()),
        };
        let ended = runtime.block_on(process.live(self, grace, config, start));
        // A lookup that hangs in the system's resolver holds its thread; it must not hold the exit.
        runtime.shutdown_background();
        match ended {
            Ok(Ended::Clean) => ExitCode::SUCCESS,
            Ok(Ended::Failed) => ExitCode::from(FAILED),
            Err(error) => self.give_up(FAILED, error),
        }
    }

    fn give_up(&self, status: u8, error: anyhow::Error) -> ExitCode {
        complain(&format!("{}: {}", self.name, one_line(error)));
        ExitCode::from(status)
    }
}

impl Process {
    /// Serves `/metrics`, `/healthz` and `/readyz` until the very end, so that a stop can be watched.
    pub fn serve_ops(
        &self,
        address: SocketAddr,
        setting: &Setting,
        readiness: Readiness,
    ) -> anyhow::Result<()> {
        let listener = http::listen(address, setting)?;
        let router = ops::router(self.metrics.clone(), readiness, self.shutdown.clone());
        // It obeys a shutdown of its own, that nobody asks for: it ends with the runtime.
        tokio::spawn(
            async move { http::serve("ops", listener, router, ops::LIMITS, &Shutdown::new()).await },
        );
        Ok(())
    }

    async fn live<C>(
        &self,
        program: &Program,
        grace: Duration,
        config: C,
        start: impl AsyncFnOnce(C, &Process) -> anyhow::Result<()>,
    ) -> anyhow::Result<Ended> {
        tokio::spawn(Signals::register()?.watch(self.shutdown.clone()));
        tokio::spawn(self.metrics.clone().keep_up());
        tracing::info!(version = program.version, "{} is starting", program.name);
        let started = tokio::select! {
            // A failure that came before a signal is told, whichever is noticed first.
            biased;
            started = start(config, self) => started,
            () = self.shutdown.soft().cancelled() => Ok(()),
        };
        if started.is_err() {
            // What had been spawned by then gets its time to hand back what it holds.
            self.shutdown.stop();
        }
        let ended = self.shutdown.finished(grace).await;
        tracing::info!("{} has stopped", program.name);
        started.map(|()| ended)
    }
}

enum Asked {
    Run,
    Say(String),
    Nonsense(String),
}

/// Help and version go to standard output; a reader that is gone is no error worth a message.
fn say(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(FAILED),
    }
}

/// The one line that a process says before it ends, which no log filter can hide.
fn complain(line: &str) {
    // If standard error is gone, nobody is left to tell.
    let _ = writeln!(io::stderr(), "{line}");
}
