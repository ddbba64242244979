//! `foreman jobs`: the jobs there are, newest first.

use std::process::ExitCode;
use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::builder::{NonEmptyStringValueParser, PossibleValuesParser, RangedU64ValueParser};
use foreman_runtime::{Env, settings::cli};
use foreman_store::JobState;

use crate::api::{Api, Filter, Job};
use crate::moment::{between, from_now, in_words};
use crate::terminal::{is_watched, print, say};
use crate::{help, table};

#[derive(Debug, clap::Args)]
#[command(after_help = help::after("\
Examples:
  foreman jobs --state failed --limit 100
  foreman jobs --state queued --model llama3.2 --json | jq -r .job_id | xargs foreman cancel

WAITED is until it was begun, TOOK what loading the model and running it took; of a job that still does, so far.
With --json every line is a job as GET /jobs gives it, without its result.", &[cli::URL, cli::API_KEY]))]
pub(crate) struct Args {
    /// Only those in this state
    #[arg(short, long, value_parser = PossibleValuesParser::new(JobState::ALL.map(JobState::as_str)))]
    state: Option<String>,
    /// Only those for this model
    #[arg(short, long, value_parser = NonEmptyStringValueParser::new())]
    model: Option<String>,
    /// At most so many
    #[arg(short = 'n', long, value_name = "N", default_value = "20",
          value_parser = RangedU64ValueParser::<usize>::new().range(1..=1_000_000))]
    limit: usize,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let api = Api::from_env(&Env::from_process())?;
    let filter = Filter { state: args.state, model: args.model };
    let mut table = table::with_header(["JOB", "STATE", "MODEL", "AGE", "WAITED", "TOOK", "REMARK"]);
    let mut left = args.limit;
    let mut after = None;
    let has_more = loop {
        let page = api.jobs(&filter, left, after.as_deref()).await?;
        left = left.saturating_sub(page.entries.len());
        for entry in page.entries {
            if args.json {
                print(entry.get())?;
            } else {
                let job = serde_json::from_str(entry.get()).map_err(|error| api.strange(&error))?;
                table::add_row(&mut table, row(&job, Utc::now()));
            }
        }
        after = page.next;
        if after.is_none() || left == 0 {
            break after.is_some();
        }
    };
    if !args.json {
        table::show(table)?;
    }
    if has_more && is_watched() {
        say(format_args!("There are more; --limit {} shows them.", args.limit.saturating_mul(5)));
    }
    Ok(ExitCode::SUCCESS)
}

fn row(job: &Job, now: DateTime<Utc>) -> [String; 7] {
    let millis = |millis: Option<u64>| millis.map(Duration::from_millis);
    let waited = millis(job.timing.wait_ms).or_else(|| {
        let ready_at = job.run_at.unwrap_or(job.created_at);
        (job.state == "queued").then(|| between(ready_at, now))
    });
    let took = match (job.completed_at, job.started_at) {
        (None, Some(started)) if job.state != "queued" => Some(between(started, now)),
        _ => match (millis(job.timing.load_ms), millis(job.timing.run_ms)) {
            (None, None) => None,
            (load, run) => Some(load.unwrap_or_default() + run.unwrap_or_default()),
        },
    };
    let optional = |duration: Option<_>| duration.map(in_words).unwrap_or_default();
    [
        job.job_id.clone(),
        job.state.clone(),
        job.model.clone(),
        in_words(between(job.created_at, now)),
        optional(waited),
        optional(took),
        remark(job, now),
    ]
}

fn remark(job: &Job, now: DateTime<Utc>) -> String {
    match (&job.error, job.run_at) {
        (Some(error), _) => error.clone(),
        (None, Some(run_at)) if job.state == "queued" && run_at > now => {
            format!("runs {}", from_now(run_at, now))
        }
        (None, _) if job.cancel_requested && job.completed_at.is_none() => "is being cancelled".to_owned(),
        (None, _) => String::new(),
    }
}
