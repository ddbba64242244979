//! `foreman submit`: one job, or a file of jobs. Only ids go to standard output, so that scripts can keep them.

mod file;
mod lines;
mod one;
mod patience;
mod progress;
mod template;
mod window;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use foreman_runtime::{Env, settings::cli};
use foreman_store::{InvalidUserName, UserName};
use reqwest::header::HeaderValue;
use serde_json::value::RawValue;

use crate::api::Api;
use crate::help;

#[derive(Debug, clap::Args)]
#[command(
    override_usage = "foreman submit --model MODEL PROMPT\n       \
                      foreman submit --model MODEL --messages FILE\n       \
                      foreman submit --file FILE",
    after_help = help::after("\
Examples:
  foreman submit --model llama3.2 'Why is the sky blue?'
  foreman submit --model llama3.2 --messages chat.json --wait
  foreman submit --file jobs.ndjson > ids
  jq -c '.[]' jobs.json | foreman submit --file - --model llama3.2 --webhook https://example.org/hook

The job id goes to standard output; watch it with `foreman watch ID`.

A file has one job a line, each a JSON object as for POST /jobs: {\"model\": …, \"prompt\": …}. Lines that are refused are
reported and the others go on; ids come in the order of the file, with --json one object a line: {\"line\": 7, \"status\":
202, \"job_id\": …}, or \"error\" instead of the id. Interrupted, the same command goes on: a line makes one job however
often it is submitted within a day, by its idempotency_key or, where it has none, by its text (equal lines of a file are
as many jobs). Lines may be added, removed and mended meanwhile. To have the same lines run anew, name another --run.", &[cli::URL, cli::API_KEY]),
)]
pub(crate) struct Args {
    /// As Ollama knows it; with --file, for lines that name none
    #[arg(short, long, required_unless_present = "file")]
    model: Option<String>,
    /// What to complete; - reads standard input
    #[arg(required_unless_present_any = ["messages", "file"], conflicts_with = "messages")]
    prompt: Option<String>,
    /// A file with the JSON array of a chat's messages; - reads standard input
    #[arg(long, value_name = "FILE")]
    messages: Option<PathBuf>,
    /// A file with one job a line (NDJSON); - reads standard input
    #[arg(short, long, value_name = "FILE",
          conflicts_with_all = ["prompt", "messages", "idempotency_key", "wait", "listen"])]
    file: Option<PathBuf>,
    /// With --file: makes the same lines other jobs than those of other runs
    #[arg(long, value_name = "NAME", requires = "file", conflicts_with_all = ["prompt", "messages"])]
    run: Option<String>,
    /// Is told of every state the job reaches; with --file, for lines that name none
    #[arg(long, value_name = "URL")]
    webhook: Option<String>,
    /// -100 to 100 among the jobs of this client, higher goes first; with --file, for lines that name none
    #[arg(long, allow_negative_numbers = true)]
    priority: Option<i64>,
    /// Which of your users the jobs are for
    #[arg(long, value_name = "NAME", value_parser = user)]
    user: Option<HeaderValue>,
    /// A JSON object that comes back with every webhook; with --file, for lines that have none
    #[arg(long, value_name = "JSON", value_parser = json)]
    metadata: Option<Json>,
    /// The same key with the same job makes no second job within a day
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Wait for the end, and say on standard error what happens; the exit code tells how it ended
    #[arg(long)]
    wait: bool,
    /// Wait for the end on a webhook listener made for this job, and check every signature
    #[arg(long, value_name = "ADDR", num_args = 0..=1, require_equals = true,
          default_missing_value = "127.0.0.1:0", conflicts_with_all = ["webhook", "wait"])]
    listen: Option<SocketAddr>,
    /// Print the job instead of its id; with --file, what became of each line
    #[arg(long)]
    json: bool,
}

/// Raw JSON that clap can clone.
type Json = std::sync::Arc<RawValue>;

fn json(text: &str) -> Result<Json, String> {
    serde_json::from_str::<Box<RawValue>>(text).map(Json::from).map_err(|error| format!("no JSON: {error}"))
}

fn user(text: &str) -> Result<HeaderValue, InvalidUserName> {
    let name: UserName = text.parse()?;
    HeaderValue::from_bytes(name.as_str().as_bytes()).map_err(|_| InvalidUserName)
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let env = Env::from_process();
    let api = Api::from_env(&env)?.for_user(args.user.clone());
    match &args.file {
        Some(file) => file::run(&api, file, &args).await,
        None => one::run(&env, &api, args).await,
    }
}
