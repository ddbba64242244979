//! `foreman watch`: a job's states as they come, then its answer. It outlives restarts of the api.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use foreman_runtime::{Env, settings::cli};
use serde::Deserialize;
use tokio::time::sleep;

use crate::api::{Api, ApiError, Event, Job};
use crate::terminal::{print, print_raw, say};
use crate::{exit, help};

const TRY_AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
#[command(after_help = help::after("\
Example: foreman watch 01JD8Z6Q2M5V0R3N7K4T9W1XYA

States go to standard error, the answer to standard output.", &[cli::URL, cli::API_KEY]))]
pub(crate) struct Args {
    /// What `foreman submit` printed
    id: String,
    /// Print the finished job instead of its answer
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let api = Api::from_env(&Env::from_process())?;
    let code = to_the_end(&api, &args.id, Follow::States).await?;
    let job = api.job(&args.id).await?;
    if args.json {
        print_raw(&job.bytes);
        print("");
    } else if job.value.state == "done" {
        print(answer(&api, &job.value).await?);
    }
    Ok(code)
}

/// What is said on the way.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Follow {
    States,
    /// The answer too.
    Answer,
}

/// Says every state until the last, and gives the exit code for it.
pub(crate) async fn to_the_end(api: &Api, id: &str, follow: Follow) -> anyhow::Result<ExitCode> {
    let mut seen = 0;
    let mut is_away = false;
    loop {
        let step = step(api, id, seen).await;
        if let Err(ApiError::Away { .. }) = &step
            && seen > 0
        {
            if !is_away {
                is_away = true;
                say("The api is away; waiting for it.");
            }
            sleep(TRY_AGAIN).await;
            continue;
        }
        is_away = false;
        let (job, events) = step?;
        for event in events.iter().filter(|event| event.seq > seen) {
            say(in_words(event));
        }
        seen = events.iter().map(|event| event.seq).max().unwrap_or_default().max(seen);
        if let Some(code) = exit_code(&job.state)
            && seen >= job.seq
        {
            if follow == Follow::Answer && job.state == "done" {
                say(answer(api, &job).await?);
            }
            return Ok(code);
        }
    }
}

async fn step(api: &Api, id: &str, seen: i64) -> Result<(Job, Vec<Event>), ApiError> {
    let job = if seen == 0 { api.job(id).await? } else { api.job_after(id, seen).await? };
    // Several states may have come since the last look; the history has them all.
    let events = if job.value.seq > seen { api.events(id).await? } else { Vec::new() };
    Ok((job.value, events))
}

/// None while the job lives.
pub(crate) fn exit_code(state: &str) -> Option<ExitCode> {
    match state {
        "done" => Some(ExitCode::SUCCESS),
        "failed" => Some(exit::JOB_FAILED.into()),
        "cancelled" => Some(exit::JOB_CANCELLED.into()),
        "expired" => Some(exit::JOB_EXPIRED.into()),
        _ => None,
    }
}

fn in_words(event: &Event) -> String {
    let Event { state, timestamp, attempt, error, .. } = event;
    let attempt = if *attempt > 1 { format!(" (attempt {attempt})") } else { String::new() };
    let error = error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
    format!("{timestamp}  {state}{attempt}{error}")
}

/// What the model said, as text; the whole answer as JSON where it is more than text.
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
        (None, None) => match job.artifacts.iter().find(|artifact| artifact.name == "completion") {
            Some(artifact) => match &artifact.url {
                Some(url) => String::from_utf8(api.artifact(url).await?)?,
                None => bail!("the job has no answer to show"),
            },
            None => bail!("the job has no answer to show"),
        },
    };
    let text = serde_json::from_str(&completion).ok().and_then(|Completion { response, message }| {
        response.or(message.map(|message| message.content)).filter(|text| !text.is_empty())
    });
    Ok(text.unwrap_or(completion))
}
