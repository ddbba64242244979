//! The frame of a service's `main`: arguments, settings, logs, signals, tasks, exit status.
//!
//! A service brings two functions. The first reads its settings, before anything else happens. The second starts its
//! tasks. Exit status: 0 if the process was asked to stop and did, 1 if it failed, 2 if a setting is wrong, 128 + n if a
//! second signal n ended it.

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
use crate::shutdown::{Shutdown, ShutdownResult};
use crate::stalls;
use crate::tls;

/// The metrics that every service has beside its own.
const OWN_METRICS: &[&[Metric]] = &[&[background::BACKGROUND_ERRORS, stalls::STALLED], http::METRICS];

const FAILED: u8 = 1;
const MISCONFIGURED: u8 = 2;

/// The description of a service.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    pub name: &'static str,
    /// One sentence.
    pub about: &'static str,
    pub version: &'static str,
    /// The settings that `--help` lists. The service reads all of them.
    pub settings: &'static [&'static [Setting]],
    pub metrics: &'static [&'static [Metric]],
}

/// The parts of the frame that a running service uses.
#[derive(Clone)]
pub struct Process {
    pub shutdown: Shutdown,
    pub metrics: Metrics,
}

impl Program {
    /// Runs the service from its arguments and environment to its end.
    ///
    /// `configure` only reads settings. `start` connects, binds, spawns tasks on `process.shutdown`, and returns. A signal
    /// that comes before it returns drops it.
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

    /// The text of `--help`, made from the declarations from which the settings are parsed.
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
        let result = runtime.block_on(process.live(self, grace, config, start));
        // A name lookup that hangs in the system's resolver blocks its thread. It must not delay the exit.
        runtime.shutdown_background();
        match result {
            Ok(ShutdownResult::Clean) => ExitCode::SUCCESS,
            Ok(ShutdownResult::Failed) => ExitCode::from(FAILED),
            Err(error) => self.give_up(FAILED, error),
        }
    }

    fn give_up(&self, status: u8, error: anyhow::Error) -> ExitCode {
        complain(&format!("{}: {}", self.name, one_line(error)));
        ExitCode::from(status)
    }
}

impl Process {
    /// Serves `/metrics`, `/healthz` and `/readyz` to the very end of the process, so that operators can watch a stop.
    pub fn serve_ops(
        &self,
        address: SocketAddr,
        setting: &Setting,
        readiness: Readiness,
    ) -> anyhow::Result<()> {
        let listener = http::listen(address, setting)?;
        let router = ops::router(self.metrics.clone(), readiness, self.shutdown.clone());
        // The server gets a `Shutdown` of its own that nobody stops, so that it ends only with the runtime.
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
    ) -> anyhow::Result<ShutdownResult> {
        tokio::spawn(Signals::register()?.watch(self.shutdown.clone()));
        tokio::spawn(self.metrics.clone().keep_up());
        tracing::info!(version = program.version, "{} is starting", program.name);
        let started = tokio::select! {
            // If a failure and a signal come at the same moment, report the failure.
            biased;
            started = start(config, self) => started,
            () = self.shutdown.soft().cancelled() => Ok(()),
        };
        if started.is_err() {
            // The tasks that `start` had spawned before it failed get time to hand back what they hold.
            self.shutdown.stop();
        }
        let result = self.shutdown.finished(grace).await;
        tracing::info!("{} has stopped", program.name);
        started.map(|()| result)
    }
}

enum Asked {
    Run,
    Say(String),
    Nonsense(String),
}

/// Writes help or version to standard output. If nobody reads it any more, only the exit status says so.
fn say(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(FAILED),
    }
}

/// Writes the one line that explains why a process ends. No log filter can hide it.
fn complain(line: &str) {
    // If standard error is closed, nobody reads the line.
    let _ = writeln!(io::stderr(), "{line}");
}
