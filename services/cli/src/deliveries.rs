//! `foreman deliveries`: the webhooks of a job, and what their receivers answered.

use std::process::ExitCode;

use chrono::{DateTime, Utc};
use foreman_runtime::{Env, settings::cli};

use crate::api::{Api, Delivery, job_id};
use crate::moment::from_now;
use crate::terminal::{is_watched, print, say};
use crate::{help, table};

#[derive(Debug, clap::Args)]
#[command(after_help = help::after("\
Example: foreman deliveries 01JD8Z6Q2M5V0R3N7K4T9W1XYA

ANSWER is that of the last attempt. With --json every line is a delivery with its id and all of its attempts, as
GET /jobs/{id}/deliveries gives it.", &[cli::URL, cli::API_KEY]))]
pub(crate) struct Args {
    /// What `foreman submit` printed
    #[arg(value_name = "ID", value_parser = job_id)]
    job: String,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let api = Api::from_env(&Env::from_process())?;
    let mut table = table::with_header(["SEQ", "EVENT", "STATE", "TRIES", "ANSWER", "LAST", "NEXT", "URL"]);
    let mut page = api.deliveries(&args.job, None).await?;
    if !args.json && page.entries.is_empty() {
        if is_watched() {
            say("Nobody is told of this job: it has no webhook, or nothing has happened to it yet.");
        }
        return Ok(ExitCode::SUCCESS);
    }
    loop {
        for entry in &page.entries {
            if args.json {
                print(entry.get())?;
            } else {
                let delivery = serde_json::from_str(entry.get()).map_err(|error| api.strange(&error))?;
                table::add_row(&mut table, row(delivery, Utc::now()));
            }
        }
        let Some(after) = page.next else { break };
        page = api.deliveries(&args.job, Some(&after)).await?;
    }
    if !args.json {
        table::show(table)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn row(delivery: Delivery, now: DateTime<Utc>) -> [String; 8] {
    let last = delivery.attempts.last();
    let answer = last.map(|last| {
        let status = last.status.map(|status| status.to_string());
        let error = last.error_code.as_deref().map(|code| code.replace('_', " "));
        let took = last.latency_ms.map(|millis| format!("in {millis} ms"));
        [status, error, took].into_iter().flatten().collect::<Vec<_>>().join(" ")
    });
    let event = delivery.r#type.strip_prefix("job.").unwrap_or(&delivery.r#type);
    [
        delivery.seq.to_string(),
        event.to_owned(),
        delivery.state,
        delivery.attempts.len().to_string(),
        answer.unwrap_or_default(),
        last.map(|last| from_now(last.at, now)).unwrap_or_default(),
        delivery.next_attempt_at.max(delivery.held_until).map(|at| from_now(at, now)).unwrap_or_default(),
        delivery.url,
    ]
}
