//! `foreman model`: has a model loaded or unloaded.

use std::process::ExitCode;

use clap::builder::NonEmptyStringValueParser;
use foreman_runtime::{Env, settings::cli};

use crate::api::{Api, Unloading};
use crate::help;
use crate::terminal::{print, say};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Have a model loaded, now or at a time, and print the id of the job that loads it
    #[command(after_help = "\
Examples:
  foreman model warm llama3.2
  foreman model warm llama3.2 --at 2026-12-01T07:30:00Z

The load waits for its turn as every job does. Have cron run this for a load at a time of every day.")]
    Warm {
        #[arg(value_name = "MODEL", value_parser = NonEmptyStringValueParser::new())]
        model: String,
        /// Load it at this time, as in RFC 3339
        #[arg(long, value_name = "TIME")]
        at: Option<String>,
    },
    /// Have a model unloaded on every host that has it, to free memory there
    #[command(after_help = "\
Examples:
  foreman model unload llama3.2
  foreman model unload llama3.2 --json

Jobs of the model that run end first, and none of its other jobs begins there meanwhile. Then the next of them loads it
again: to keep a host free of models, drain it with `foreman host drain`.")]
    Unload {
        #[arg(value_name = "MODEL", value_parser = NonEmptyStringValueParser::new())]
        model: String,
        /// Print the model and the hosts as JSON
        #[arg(long)]
        json: bool,
    },
}

pub(crate) fn help() -> String {
    help::after(
        "\
Examples:
  foreman model warm llama3.2
  foreman model unload llama3.2

These commands need an administrator's key, or, where no keys are needed, the machine of the api.",
        &[cli::URL, cli::API_KEY],
    )
}

pub(crate) async fn run(command: Command) -> anyhow::Result<ExitCode> {
    let api = Api::from_env(&Env::from_process())?;
    match command {
        Command::Warm { model, at } => print(api.warm(&model, at.as_deref()).await?)?,
        Command::Unload { model, json } => unload(&api, &model, json).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn unload(api: &Api, model: &str, json: bool) -> anyhow::Result<()> {
    let unloading = api.unload(model).await?;
    if json {
        print(unloading.json.trim_end())?;
    }
    let Unloading { model, hosts } = unloading.value;
    if hosts.is_empty() {
        say(format_args!("{model} runs in Ollama's cloud; no host has it loaded."));
    } else {
        say(format_args!("{model} is unloaded as soon as no job of it runs, on {}.", hosts.join(", ")));
    }
    Ok(())
}
