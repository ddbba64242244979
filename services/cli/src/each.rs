//! `foreman cancel` and `foreman retry`: the same done to each of several jobs. A job that cannot be cancelled or retried
//! does not stop the command; an api that cannot be asked does.

use std::process::ExitCode;

use foreman_runtime::{Env, settings::cli};

use crate::api::{Api, ApiError, job_id};
use crate::terminal::{print, say};
use crate::watch::exit_code;
use crate::{exit, help};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What `foreman submit` printed
    #[arg(required = true, value_name = "ID", value_parser = job_id)]
    ids: Vec<String>,
    /// Print each job, one JSON object a line
    #[arg(long)]
    json: bool,
}

pub(crate) fn cancel_help() -> String {
    help::after(
        "\
Examples:
  foreman cancel 01JD8Z6Q2M5V0R3N7K4T9W1XYA
  xargs foreman cancel < ids

A job that is being run is stopped within a second, unless it succeeds before; one that has ended stays as it is.",
        &[cli::URL, cli::API_KEY],
    )
}

pub(crate) fn retry_help() -> String {
    help::after(
        "\
Examples:
  foreman retry 01JD8Z6Q2M5V0R3N7K4T9W1XYA
  foreman jobs --state failed --json | jq -r .job_id | xargs foreman retry

Makes a new job of one that has ended, and prints its id. Asked twice, it makes two.",
        &[cli::URL, cli::API_KEY],
    )
}

pub(crate) async fn cancel(args: Args) -> anyhow::Result<ExitCode> {
    let api = Api::from_env(&Env::from_process())?;
    for_each(&args.ids, async |id| {
        let job = api.cancel(id).await?;
        let state = &job.value.state;
        Ok(match exit_code(state) {
            _ if args.json => job.json,
            Some(_) => format!("{id}  {state}"),
            None => format!("{id}  {state}, being cancelled"),
        })
    })
    .await
}

pub(crate) async fn retry(args: Args) -> anyhow::Result<ExitCode> {
    let api = Api::from_env(&Env::from_process())?;
    for_each(&args.ids, async |id| {
        let new = api.retry(id).await?;
        Ok(if args.json { api.job(&new).await?.json } else { new })
    })
    .await
}

/// Prints what `act` returns for each job, and says which jobs were refused.
async fn for_each(
    ids: &[String],
    act: impl AsyncFn(&str) -> Result<String, ApiError>,
) -> anyhow::Result<ExitCode> {
    let mut refused = 0;
    for id in ids {
        match act(id).await {
            Ok(result) => print(result)?,
            Err(ApiError::Refused { status, sentence }) if matches!(status.as_u16(), 404 | 409) => {
                refused += 1;
                say(format_args!("{id}: {sentence}"));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(match refused {
        0 => ExitCode::SUCCESS,
        refused if refused == ids.len() => exit::FAILED.into(),
        _ => exit::SOME_REFUSED.into(),
    })
}
