//! One job, made of the arguments.

use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use foreman_runtime::Env;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::time::sleep;

use super::Args;
use super::patience::Patience;
use crate::api::{Api, ApiError};
use crate::listen::{Listener, secret};
use crate::terminal::{print, say};
use crate::watch;

pub(super) async fn run(env: &Env, api: &Api, args: Args) -> anyhow::Result<ExitCode> {
    let listener = match args.listen {
        Some(address) => Some(Listener::bind(address, secret(env)?).await?),
        None => None,
    };
    let webhook = listener.as_ref().map(Listener::url).or_else(|| args.webhook.clone());
    let body = args.body(webhook.as_deref())?;
    // An idempotency key makes it safe to submit again, so make one where the user named none.
    let key =
        args.idempotency_key.clone().unwrap_or_else(|| format!("foreman-{:032x}", rand::random::<u128>()));
    let id = submit(api, &body, &key).await?;
    if !args.json {
        print(&id)?;
    }
    let code = match listener {
        Some(listener) => listener.follow(&id).await?,
        None if args.wait => watch::to_the_end(api, &id).await?,
        None => ExitCode::SUCCESS,
    };
    if args.json {
        let job = api.job(&id).await?;
        print(job.json)?;
    } else if args.listen.is_some() || (args.wait && code == ExitCode::SUCCESS) {
        let job = api.job(&id).await?;
        say(watch::answer(api, &job.value).await?);
    }
    Ok(code)
}

async fn submit(api: &Api, body: &str, key: &str) -> Result<String, ApiError> {
    let mut patience = Patience::for_a_job();
    let mut told = false;
    loop {
        let error = match api.submit(body.to_owned(), key).await {
            Ok(id) => return Ok(id),
            Err(error) => error,
        };
        let Some(wait) = patience.wait_after(&error) else { return Err(error) };
        if !told {
            told = true;
            say(format_args!("{error} Trying again until it works."));
        }
        sleep(wait).await;
    }
}

#[derive(Serialize)]
struct Body<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
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
    /// Only text that is no JSON is refused here. The api judges everything else.
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
            model: self.model.as_deref(),
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
