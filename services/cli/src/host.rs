//! `foreman host`: the Ollama hosts, and which of them take jobs.

use std::process::ExitCode;

use clap::builder::NonEmptyStringValueParser;
use foreman_runtime::{Env, settings::cli};

use crate::api::{Api, Host, Reply};
use crate::moment::from_now;
use crate::terminal::{print, say};
use crate::{help, table};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Show every host: what runs there, what is loaded, and whether it takes jobs
    #[command(after_help = "Example: foreman host list")]
    List {
        /// Print one JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Let a host take no new jobs; what runs there ends
    #[command(after_help = "\
Example: foreman host drain gpu-2

When `foreman host list` shows nothing that runs there, the host can be switched off. It stays drained until it is resumed,
whatever is restarted meanwhile. Jobs of models that only this host has wait.")]
    Drain(Args),
    /// Let a drained host take jobs again
    #[command(after_help = "Example: foreman host resume gpu-2")]
    Resume(Args),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// As `foreman host list` shows it
    #[arg(value_name = "HOST", value_parser = NonEmptyStringValueParser::new())]
    id: String,
    /// Print the host as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn help() -> String {
    help::after(
        "\
Example: foreman host drain gpu-2

These commands need an administrator's key, or, where no keys are needed, the machine of the api.",
        &[cli::URL, cli::API_KEY],
    )
}

pub(crate) async fn run(command: Command) -> anyhow::Result<ExitCode> {
    let api = Api::from_env(&Env::from_process())?;
    match command {
        Command::List { json } => list(&api, json).await?,
        Command::Drain(args) => {
            let running = told(&api.drain_host(&args.id).await?, args.json)?;
            say(format_args!("{} takes no new jobs; running there: {running}.", args.id));
        }
        Command::Resume(args) => {
            told(&api.resume_host(&args.id).await?, args.json)?;
            say(format_args!("{} takes jobs.", args.id));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints the host if its JSON is wanted. Returns how many jobs run there.
fn told(host: &Reply<Host>, json: bool) -> anyhow::Result<u64> {
    if json {
        print(host.json.trim_end())?;
    }
    Ok(host.value.running)
}

async fn list(api: &Api, json: bool) -> anyhow::Result<()> {
    let mut table = table::with_header(["HOST", "STATE", "RUNNING", "SLOTS", "LOADED", "MODELS"]);
    for host in api.hosts().await? {
        if json {
            print(host.get())?;
        } else {
            let host: Host = serde_json::from_str(host.get()).map_err(|error| api.strange(&error))?;
            table::add_row(&mut table, row(host));
        }
    }
    if !json {
        table::show(table)?;
    }
    Ok(())
}

fn row(host: Host) -> [String; 6] {
    let state = match (host.drained_at, &host.worker) {
        (Some(at), _) => format!("drained {}", from_now(at, chrono::Utc::now())),
        (None, None) => "without a worker".to_owned(),
        (None, Some(_)) if !host.reachable => "Ollama is away".to_owned(),
        (None, Some(_)) => "takes jobs".to_owned(),
    };
    [
        host.host_id,
        state,
        host.running.to_string(),
        host.slots.to_string(),
        host.resident.join(" "),
        host.models.join(" "),
    ]
}
