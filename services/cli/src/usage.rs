//! `foreman usage`: what clients, users and models have used.

use std::process::ExitCode;
use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::builder::{PossibleValuesParser, RangedU64ValueParser};
use foreman_runtime::{Env, settings::cli};
use foreman_store::UsageBy;
use foreman_webhook::rfc3339;

use crate::api::{Api, Sum, UsageQuery};
use crate::moment::{ago, in_words};
use crate::terminal::{is_watched, print, say};
use crate::{help, table};

#[derive(Debug, clap::Args)]
#[command(after_help = help::after("\
Examples:
  foreman usage --by user --last 7d
  foreman usage --by hour --from 2026-11-01T00:00:00Z --to 2026-12-01T00:00:00Z --json

An administrator's key shows what every client has used. GPU is the time of all attempts, and what one has used counts in the
hour in which it ended. With --json it is the answer of GET /usage.", &[cli::URL, cli::API_KEY]))]
pub(crate) struct Args {
    /// What to sum up by
    #[arg(long, default_value = UsageBy::Client.as_str(),
          value_parser = PossibleValuesParser::new(UsageBy::ALL.map(UsageBy::as_str)))]
    by: String,
    /// The hours that began in this time before now
    #[arg(long, value_name = "DURATION", value_parser = since, default_value = "1d",
          conflicts_with_all = ["from", "to"])]
    last: DateTime<Utc>,
    /// Hours that began at this time or later
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Hours that began before this time
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// At most so many
    #[arg(short = 'n', long, value_name = "N", default_value = "100",
          value_parser = RangedU64ValueParser::<usize>::new().range(1..=10_000))]
    limit: usize,
    /// Print the api's answer
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let api = Api::from_env(&Env::from_process())?;
    let from = match (args.from, &args.to) {
        (None, None) => Some(rfc3339(args.last)),
        (from, _) => from,
    };
    let query = UsageQuery { by: args.by, from, to: args.to, limit: args.limit };
    let usage = api.usage(&query).await?;
    if args.json {
        print(usage.json)?;
        return Ok(ExitCode::SUCCESS);
    }
    let header = ["DONE", "FAILED", "CANCELLED", "EXPIRED", "GPU", "LOADS", "PROMPT", "COMPLETION", "WHOSE"];
    let mut table = table::with_header(header);
    for sum in &usage.value.data {
        table::add_row(&mut table, row(sum));
    }
    table::show(table)?;
    if usage.value.has_more && is_watched() {
        say("There are more; a larger --limit shows them.");
    }
    Ok(ExitCode::SUCCESS)
}

fn since(text: &str) -> Result<DateTime<Utc>, String> {
    ago(text).ok_or_else(|| "expected how long ago, such as 90m, 2h or 3d".to_owned())
}

fn row(sum: &Sum) -> [String; 9] {
    let whose = [&sum.hour, &sum.model, &sum.client, &sum.user].into_iter().flatten();
    [
        sum.jobs.done.to_string(),
        sum.jobs.failed.to_string(),
        sum.jobs.cancelled.to_string(),
        sum.jobs.expired.to_string(),
        in_words(Duration::try_from_secs_f64(sum.gpu_seconds).unwrap_or_default()),
        sum.loads.to_string(),
        sum.prompt_tokens.to_string(),
        sum.completion_tokens.to_string(),
        whose.map(String::as_str).collect::<Vec<_>>().join(" "),
    ]
}
