//! `foreman watch`: shows a job's states as they come, then its answer. It survives restarts of the api.

mod show;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use foreman_runtime::{Env, settings::cli};
use foreman_webhook::event::COMPLETION;
use serde::Deserialize;
use tokio::time::sleep;

use crate::api::{Api, ApiError, Artifact, Event, Job, job_id};
use crate::terminal::print;
use crate::{exit, help};
use show::Show;

const TRY_AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
#[command(after_help = help::after("\
Example: foreman watch 01JD8Z6Q2M5V0R3N7K4T9W1XYA

States go to standard error, on a terminal with how long each takes; the answer goes to standard output. The exit code
tells how the job ended.", &[cli::URL, cli::API_KEY]))]
pub(crate) struct Args {
    /// What `foreman submit` printed
    #[arg(value_parser = job_id)]
    id: String,
    /// Print the finished job instead of its answer
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let api = Api::from_env(&Env::from_process())?;
    let code = to_the_end(&api, &args.id).await?;
    let job = api.job(&args.id).await?;
    if args.json {
        print(job.json)?;
    } else if job.value.state == "done" {
        print(answer(&api, &job.value).await?)?;
    }
    Ok(code)
}

/// Shows every state until the last, and returns the exit code for that.
pub(crate) async fn to_the_end(api: &Api, id: &str) -> anyhow::Result<ExitCode> {
    let mut show = Show::begin()?;
    let mut seen = 0;
    loop {
        let (job, events) = match step(api, id, seen).await {
            Ok(step) => step,
            Err(error) if error.is_away() && seen > 0 => {
                show.away("The api is away; waiting for it.");
                sleep(TRY_AGAIN).await;
                continue;
            }
            Err(ApiError::Busy { sentence, retry_after, .. }) if seen > 0 => {
                show.away(&sentence);
                sleep(retry_after).await;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        show.back();
        let is_past = seen == 0;
        for event in events {
            if event.seq > seen {
                seen = event.seq;
                show.event(event, is_past);
            }
        }
        if let Some(code) = exit_code(&job.state)
            && seen >= job.seq
        {
            return Ok(code);
        }
    }
}

async fn step(api: &Api, id: &str, seen: i64) -> Result<(Job, Vec<Event>), ApiError> {
    let job = if seen == 0 { api.job(id).await? } else { api.job_after(id, seen).await? };
    // The job may have gone through several states since the last request. The history has all of them.
    let events = if job.value.seq > seen { api.events(id).await? } else { Vec::new() };
    Ok((job.value, events))
}

/// `None` while the job has not ended.
pub(crate) fn exit_code(state: &str) -> Option<ExitCode> {
    match state {
        "done" => Some(ExitCode::SUCCESS),
        "failed" => Some(exit::JOB_FAILED.into()),
        "cancelled" => Some(exit::JOB_CANCELLED.into()),
        "expired" => Some(exit::JOB_EXPIRED.into()),
        _ => None,
    }
}

/// The model's text. Where the answer has no text, the whole answer as JSON.
pub(crate) async fn answer(api: &Api, job: &Job) -> anyhow::Result<String> {
    #[derive(Deserialize)]
    struct Completion {
        response: Option<String>,
        message: Option<Message>,
    }
    #[derive(Deserialize)]
    struct Message {
        #[serde(default)]
        content: String,
    }
    let completion = match (&job.result, &job.error) {
        (Some(result), _) => result.get().to_owned(),
        (None, Some(error)) => return Ok(error.clone()),
        (None, None) => match job.artifacts.iter().find(|artifact| artifact.name == COMPLETION) {
            Some(Artifact { data: Some(data), .. }) => data.clone(),
            Some(Artifact { url: Some(url), .. }) => String::from_utf8(api.artifact(url).await?)?,
            _ => bail!("the job has no answer to show"),
        },
    };
    let text = serde_json::from_str(&completion).ok().and_then(|Completion { response, message }| {
        response.or(message.map(|message| message.content)).filter(|text| !text.is_empty())
    });
    Ok(text.unwrap_or(completion))
}
