//! `foreman up` and `foreman demo`: everything on one machine, with nothing to configure.
//!
//! Starts Postgres, the services and, for a demo, the simulator; keeps them alive; stops them in order. What the user
//! set always wins over what is chosen here, but in a demo, which must never touch a real database or Ollama.

pub(crate) mod addresses;
mod child;
pub(crate) mod environment;
pub(crate) mod home;
mod leftovers;
pub(crate) mod lock;
mod ollama;
pub(crate) mod postgres;
mod programs;
mod ready;
pub(crate) mod secrets;
mod services;
mod stack;

use std::convert::Infallible;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use foreman_runtime::Env;
use foreman_runtime::settings::{api, cli, shared, worker};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::help;
use crate::terminal::say;
use addresses::Addresses;
use home::Home;
use programs::Programs;
use ready::Probe;
use services::Services;
use stack::Stack;

const API: &str = "foreman-api";
const WORKER: &str = "foreman-worker";
const SIM: &str = "ollama-sim";
const POSTGRES: &str = "postgres";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Show everything that the services log, not only warnings and errors
    #[arg(short, long)]
    verbose: bool,
    /// Write the api's URL into this file once everything runs, for scripts that wait for it
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Real,
    /// On the simulator, in a directory of its own.
    Demo,
}

pub(crate) fn help() -> String {
    help::after(
        "\
Examples:
  foreman up
  OLLAMA_HOST=gpu.lan foreman up
  DATABASE_URL=postgres://foreman@db.lan/foreman foreman up --verbose

Starts a private Postgres, foreman-api and foreman-worker, and keeps them running until Ctrl-C. Not set, FOREMAN_AUTH is
off here and FOREMAN_WEBHOOK_ALLOW is loopback; every other setting of foreman-api and foreman-worker (see their --help)
is passed on.",
        &[cli::HOME, shared::DATABASE_URL, worker::OLLAMA_HOST, api::ADDR, api::OPS_ADDR, worker::OPS_ADDR, worker::STREAM_ADDR],
    )
}

pub(crate) fn demo_help() -> String {
    help::after(
        "\
Example: foreman demo

Like `foreman up`, on a simulated Ollama: results carry \"simulated\": true. It keeps to a Postgres of its own in the
directory demo of FOREMAN_HOME, whatever DATABASE_URL and OLLAMA_HOST say, and takes free ports where the default ones
are taken.",
        &[cli::HOME, api::ADDR, api::OPS_ADDR, worker::OPS_ADDR, worker::STREAM_ADDR],
    )
}

/// Runs until a signal comes, or until something cannot be run at all.
pub(crate) async fn run(args: Args, kind: Kind) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::register()?;
    let env = Env::from_process();
    let programs = Programs::beside_us(kind)?;
    let home = Home::open(&env, kind)?;
    let mut stack = Stack::new(&home);
    let lived = tokio::select! {
        signal = signals.next() => {
            say(format_args!("{signal}: stopping. Once more ends everything at once."));
            Ok(())
        }
        failed = live(&env, kind, &args, &home, &programs, &mut stack) => failed.map(|never| match never {}),
    };
    if let Some(file) = &args.ready_file {
        // It may never have been written.
        let _missing = fs::remove_file(file);
    }
    tokio::select! {
        () = stack.stop() => {}
        signal = signals.next() => {
            say(format_args!("{signal}: ending everything at once."));
            stack.stop_now().await;
        }
    }
    lived.map(|()| ExitCode::SUCCESS)
}

/// From nothing to everything, and then for as long as all goes well.
async fn live(
    env: &Env,
    kind: Kind,
    args: &Args,
    home: &Home,
    programs: &Programs,
    stack: &mut Stack<'_>,
) -> anyhow::Result<Infallible> {
    leftovers::end(home).await?;
    let addresses = Addresses::choose(env, kind)?;
    let services = Services::configure(env, kind, args.verbose, home, programs, &addresses).await?;
    announce(kind, home, &services);
    if let Some(postgres) = services.postgres() {
        stack.start(postgres)?;
    }
    stack.unless_one_dies(services.migrate()).await?;
    if kind == Kind::Demo {
        stack.start(services.simulator())?;
    }
    stack.start(services.worker())?;
    stack.start(services.api())?;
    let probe = Probe::new()?;
    stack.unless_one_dies(probe.passes(addresses.worker_ops, "healthz")).await?;
    stack.unless_one_dies(probe.passes(addresses.api_ops, "readyz")).await?;
    say(format_args!("Foreman is up: {}", addresses.url()));
    if let Some(file) = &args.ready_file {
        fs::write(file, format!("{}\n", addresses.url()))
            .with_context(|| format!("{} cannot be written", file.display()))?;
    }
    let ollama = services.ollama()?;
    tokio::select! {
        failed = stack.watch() => failed,
        never = async { ollama::wait(&ollama).await; std::future::pending().await } => never,
    }
}

fn announce(kind: Kind, home: &Home, services: &Services<'_>) {
    if kind == Kind::Demo {
        say("==============================================================================");
        say("  A SIMULATION: no Ollama and no GPU take part. Models and answers are made up,");
        say("  and every result says \"simulated\": true. The real thing is `foreman up`.");
        say("==============================================================================");
    }
    say(format_args!("Everything is kept in {}, logs in {}.", home.path().display(), home.logs().display()));
    if let Some(remark) = services.remark() {
        say(remark);
    }
}

/// What asks a foreground program to end: Ctrl-C, a service manager, a terminal that is closed.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    fn register() -> anyhow::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "Ctrl-C",
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.hang_up.recv() => "The terminal was closed",
        }
    }
}
