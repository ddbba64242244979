//! `foreman`: Foreman's command line.

mod migrate;
mod up;

mod client;
mod doctor;
mod healthcheck;
mod host;
mod model;
mod secrets;

mod chat;
mod listen;
mod ollama_models;
mod submit;
mod watch;

mod deliveries;
mod each;
mod jobs;
mod queue;
mod top;
mod usage;
mod webhook;

mod completions;

mod api;
mod database;
mod exit;
mod help;
mod moment;
mod table;
mod terminal;
mod tether;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A durable queue in front of Ollama.
#[derive(Debug, Parser)]
#[command(name = "foreman", version, after_help = help::overview())]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run everything on this machine, with nothing to configure
    #[command(after_help = up::help())]
    Up(up::Args),
    /// The same on a simulated Ollama, in a directory of its own, to try Foreman out
    #[command(after_help = up::demo_help())]
    Demo(up::Args),
    /// Bring the database up to date; safe twice and from two places
    Migrate(migrate::Args),
    /// Talk to a model through the queue
    Chat(chat::Args),
    /// Submit a job, or a file of them
    Submit(submit::Args),
    /// Follow a job to its end, and print its answer
    Watch(watch::Args),
    /// List jobs, newest first
    Jobs(jobs::Args),
    /// Show what waits, whose turn it is, and why
    Queue(queue::Args),
    /// The same, live
    Top(top::Args),
    /// Show what clients, users and models have used
    Usage(usage::Args),
    /// Show the webhooks of a job, and what their receivers said
    Deliveries(deliveries::Args),
    /// Cancel jobs
    #[command(after_help = each::cancel_help())]
    Cancel(each::Args),
    /// Run jobs that have ended once more, as new jobs
    #[command(after_help = each::retry_help())]
    Retry(each::Args),
    /// Receive webhooks, check their signatures, and show them
    Listen(listen::Args),
    /// Receivers of all jobs: endpoints with secrets of their own
    #[command(subcommand, after_help = webhook::help())]
    Webhook(webhook::Command),
    /// Who may submit: keys and webhook secrets
    #[command(subcommand, after_help = client::help())]
    Client(client::Command),
    /// The Ollama hosts, and which of them take jobs
    #[command(subcommand, after_help = host::help())]
    Host(host::Command),
    /// The models: what should be loaded or unloaded
    #[command(subcommand, after_help = model::help())]
    Model(model::Command),
    /// The encryption of stored secrets
    #[command(subcommand, after_help = secrets::help())]
    Secrets(secrets::Command),
    /// Look the installation over: what is wrong, and how to mend it
    Doctor(doctor::Args),
    #[command(hide = true)]
    Healthcheck(healthcheck::Args),
    /// Print what a shell needs to complete these commands
    Completions(completions::Args),
    #[command(hide = true)]
    OllamaModels,
    #[command(hide = true)]
    Tether(tether::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    foreman_runtime::tls::install();
    // One thread is plenty, and it is the one that the children of `up` are children of.
    let ended = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| {
            let ended = runtime.block_on(cli.command.run());
            // A read of standard input that never ends must not hold the exit.
            runtime.shutdown_background();
            ended
        });
    ended.unwrap_or_else(|error| {
        if let Some(code) = exit::quietly(&error) {
            return code;
        }
        let code = exit::of_error(&error);
        terminal::say(format_args!("foreman: {}", terminal::sentence(&error)));
        code
    })
}

impl Command {
    async fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Up(args) => up::run(args, up::Kind::Real).await,
            Self::Demo(args) => up::run(args, up::Kind::Demo).await,
            Self::Migrate(args) => migrate::run(args).await,
            Self::Chat(args) => chat::run(args).await,
            Self::Submit(args) => submit::run(args).await,
            Self::Watch(args) => watch::run(args).await,
            Self::Jobs(args) => jobs::run(args).await,
            Self::Queue(args) => queue::run(args).await,
            Self::Top(args) => top::run(args).await,
            Self::Usage(args) => usage::run(args).await,
            Self::Deliveries(args) => deliveries::run(args).await,
            Self::Cancel(args) => each::cancel(args).await,
            Self::Retry(args) => each::retry(args).await,
            Self::Listen(args) => listen::run(args).await,
            Self::Webhook(command) => webhook::run(command).await,
            Self::Client(command) => client::run(command).await,
            Self::Host(command) => host::run(command).await,
            Self::Model(command) => model::run(command).await,
            Self::Secrets(command) => secrets::run(command).await,
            Self::Doctor(args) => doctor::run(args).await,
            Self::Healthcheck(args) => healthcheck::run(args).await,
            Self::Completions(args) => completions::run(args),
            Self::OllamaModels => ollama_models::run().await,
            Self::Tether(args) => match tether::run(args).await? {},
        }
    }
}
