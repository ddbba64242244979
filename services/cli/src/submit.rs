//! `foreman submit`: one job. Its id alone goes to standard output, so that scripts can keep it.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use foreman_runtime::{Env, settings::cli};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep};

use crate::api::{Api, ApiError};
use crate::help;
use crate::listen::{Listener, secret};
use crate::terminal::{print, print_raw, say};
use crate::watch::{self, Follow};

/// How long an api that is too busy, or has just started, is asked again.
const BUSY_FOR: Duration = Duration::from_secs(60);

#[derive(Debug, clap::Args)]
#[command(after_help = help::after("\
Examples:
  foreman submit --model llama3.2 'Why is the sky blue?'
  foreman submit --model llama3.2 --messages chat.json --wait
  echo '[{\"role\":\"user\",\"content\":\"Hello\"}]' | foreman submit --model llama3.2 --messages - --listen

The job id goes to standard output; watch it with `foreman watch ID`.", &[cli::URL, cli::API_KEY]))]
pub(crate) struct Args {
    /// As Ollama knows it
    #[arg(short, long)]
    model: String,
    /// What to complete; - reads standard input
    #[arg(required_unless_present = "messages", conflicts_with = "messages")]
    prompt: Option<String>,
    /// A file with the JSON array of a chat's messages; - reads standard input
    #[arg(long, value_name = "FILE")]
    messages: Option<PathBuf>,
    /// Is told of every state the job reaches
    #[arg(long, value_name = "URL")]
    webhook: Option<String>,
    /// -100 to 100 among the jobs of this client; higher goes first
    #[arg(long, allow_negative_numbers = true)]
    priority: Option<i64>,
    /// A JSON object that comes back with every webhook
    #[arg(long, value_name = "JSON", value_parser = json)]
    metadata: Option<Json>,
    /// The same key with the same job makes no second job
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Wait for the end, and say on standard error what happens; the exit code tells how it ended
    #[arg(long)]
    wait: bool,
    /// Wait for the end on a webhook listener made for this job, and check every signature
    #[arg(long, value_name = "ADDR", num_args = 0..=1, require_equals = true,
          default_missing_value = "127.0.0.1:0", conflicts_with_all = ["webhook", "wait"])]
    listen: Option<SocketAddr>,
    /// Print the job instead of its id
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let env = Env::from_process();
    let api = Api::from_env(&env)?;
    let listener = match args.listen {
        Some(address) => Some(Listener::bind(address, secret(&env)?).await?),
        None => None,
    };
    let webhook = listener.as_ref().map(Listener::url).or_else(|| args.webhook.clone());
    let body = args.body(webhook.as_deref())?;
    let id = submit(&api, &body, args.idempotency_key.as_deref()).await?;
    if !args.json {
        print(&id);
    }
    let code = match listener {
        Some(listener) => listener.follow(&id).await?,
        None if args.wait => watch::to_the_end(&api, &id, Follow::Answer).await?,
        None => ExitCode::SUCCESS,
    };
    if args.json {
        let job = api.job(&id).await?;
        print_raw(&job.bytes);
        print("");
    } else if args.listen.is_some() {
        let job = api.job(&id).await?;
        say(watch::answer(&api, &job.value).await?);
    }
    Ok(code)
}

/// A refusal that names a time to come back at was made before anything was accepted, so coming back is safe.
async fn submit(api: &Api, body: &str, idempotency_key: Option<&str>) -> Result<String, ApiError> {
    let give_up = Instant::now() + BUSY_FOR;
    let mut told = false;
    loop {
        match api.submit(body.to_owned(), idempotency_key).await {
            Err(ApiError::Busy { sentence, retry_after }) if Instant::now() + retry_after < give_up => {
                if !told {
                    told = true;
                    say(format_args!("{sentence} Trying again until it works."));
                }
                sleep(retry_after).await;
            }
            answered => return answered,
        }
    }
}

/// Raw JSON that clap can clone.
type Json = std::sync::Arc<RawValue>;

fn json(text: &str) -> Result<Json, String> {
    serde_json::from_str::<Box<RawValue>>(text).map(Json::from).map_err(|error| format!("no JSON: {error}"))
}

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_webhook_url: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a RawValue>,
}

impl Args {
    /// What is wrong with the values, the api says; what is no JSON cannot get there.
    fn body(&self, webhook: Option<&str>) -> anyhow::Result<String> {
        let prompt = match self.prompt.as_deref() {
            Some("-") => Some(read(Path::new("-"))?),
            prompt => prompt.map(str::to_owned),
        };
        let messages = match &self.messages {
            Some(file) => {
                let text = read(file)?;
                let of = || {
                    format!("{} holds no JSON; write [{{\"role\": …, \"content\": …}}, …]", file.display())
                };
                Some(serde_json::from_str(&text).with_context(of)?)
            }
            None => None,
        };
        Ok(serde_json::to_string(&Body {
            model: &self.model,
            prompt,
            messages,
            state_webhook_url: webhook,
            priority: self.priority,
            metadata: self.metadata.as_deref(),
        })?)
    }
}

fn read(file: &Path) -> anyhow::Result<String> {
    if file == Path::new("-") {
        io::read_to_string(io::stdin()).context("standard input cannot be read as text")
    } else {
        fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))
    }
}
