//! `foreman model`: has a model loaded.

use std::process::ExitCode;

use clap::builder::NonEmptyStringValueParser;
use foreman_runtime::{Env, settings::cli};

use crate::api::Api;
use crate::help;
use crate::terminal::print;

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
}

pub(crate) fn help() -> String {
    help::after(
        "\
Example: foreman model warm llama3.2

These commands need an administrator's key, or, where no keys are needed, the machine of the api.",
        &[cli::URL, cli::API_KEY],
    )
}

pub(crate) async fn run(command: Command) -> anyhow::Result<ExitCode> {
    let api = Api::from_env(&Env::from_process())?;
    let Command::Warm { model, at } = command;
    print(api.warm(&model, at.as_deref()).await?)?;
    Ok(ExitCode::SUCCESS)
}
