//! `foreman cancel` and `foreman retry`: the same done to each of several jobs. One that refuses does not keep the others
//! from their turn.

use std::process::ExitCode;

use foreman_runtime::{Env, settings::cli};

use crate::api::{Api, ApiError, job_id};
use crate::terminal::{print, print_raw, say};
use crate::watch::exit_code;
use crate::{exit, help};

#[derive(Debug, clap::Args)]
#[command(after_help = help::after("\
Examples:
  foreman cancel 01JD8Z6Q2M5V0R3N7K4T9W1XYA
  xargs foreman cancel < ids

A job that is being run is stopped within a second, unless it succeeds before; one that has ended stays as it is.", &[cli::URL, cli::API_KEY]))]
pub(crate) struct Cancel {
    /// What `foreman submit` printed
    #[arg(required = true, value_name = "ID", value_parser = job_id)]
    ids: Vec<String>,
    /// Print each job, one JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = help::after("\
Examples:
  foreman retry 01JD8Z6Q2M5V0R3N7K4T9W1XYA
  foreman jobs --state failed --json | jq -r .job_id | xargs foreman retry

Makes a new job of one that has ended, and prints its id. Asked twice, it makes two.", &[cli::URL, cli::API_KEY]))]
pub(crate) struct Retry {
    /// What `foreman submit` printed
    #[arg(required = true, value_name = "ID", value_parser = job_id)]
    ids: Vec<String>,
    /// Print each new job, one JSON object a line
    #[arg(long)]
    json: bool,
}

pub(crate) async fn cancel(args: Cancel) -> anyhow::Result<ExitCode> {
    let api = Api::from_env(&Env::from_process())?;
    let mut refused = 0;
    for id in &args.ids {
        match api.cancel(id).await {
            Ok(job) if args.json => {
                print_raw(&job.bytes)?;
                print("")?;
            }
            Ok(job) => {
                let state = &job.value.state;
                let state = match exit_code(state) {
                    Some(_) => state.clone(),
                    None => format!("{state}, being cancelled"),
                };
                print(format_args!("{id}  {state}"))?;
            }
            Err(error) => tell(id, error, &mut refused)?,
        }
    }
    Ok(outcome(refused, args.ids.len()))
}

pub(crate) async fn retry(args: Retry) -> anyhow::Result<ExitCode> {
    let api = Api::from_env(&Env::from_process())?;
    let mut refused = 0;
    for id in &args.ids {
        match api.retry(id).await {
            Ok(again) if args.json => {
                print_raw(&api.job(&again).await?.bytes)?;
                print("")?;
            }
            Ok(again) => print(again)?,
            Err(error) => tell(id, error, &mut refused)?,
        }
    }
    Ok(outcome(refused, args.ids.len()))
}

/// What is wrong with one job is said, and the next one has its turn; what is wrong with the api ends everything.
fn tell(id: &str, error: ApiError, refused: &mut usize) -> Result<(), ApiError> {
    match error {
        ApiError::Refused { status, sentence } if matches!(status.as_u16(), 404 | 409) => {
            *refused += 1;
            say(format_args!("{id}: {sentence}"));
            Ok(())
        }
        error => Err(error),
    }
}

fn outcome(refused: usize, all: usize) -> ExitCode {
    match refused {
        0 => ExitCode::SUCCESS,
        refused if refused == all => exit::FAILED.into(),
        _ => exit::SOME_REFUSED.into(),
    }
}
