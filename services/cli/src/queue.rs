//! `foreman queue`: what waits, whose turn it is and why.

pub(crate) mod tables;

use std::process::ExitCode;

use chrono::Utc;
use foreman_runtime::{Env, settings::cli};

use crate::api::Api;
use crate::help;
use crate::terminal::{columns, print};

#[derive(Debug, clap::Args)]
#[command(after_help = help::after("\
Examples:
  foreman queue
  foreman queue --json | jq '.hosts[].next'

Of each host it shows the model that has the GPU, and below it those whose turns come next, with the reasons. LONGEST WAIT is the
longest time that a client with jobs waits until one of them begins, by what was measured so far. MAX is how many jobs of a client
may run at the same time on each host. DUE is the part of the GPUs' time in the last hour that belonged to a client by its
weight, GOT what it got. An administrator's key shows every client. With --json it is the answer of GET /queue.", &[cli::URL, cli::API_KEY]))]
pub(crate) struct Args {
    /// Print the api's answer
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let api = Api::from_env(&Env::from_process())?;
    let queue = api.queue().await?;
    if args.json {
        print(queue.json)?;
    } else {
        print(tables::text(&queue.value, Utc::now(), columns()))?;
    }
    Ok(ExitCode::SUCCESS)
}
