//! `foreman healthcheck URL`: a health check for images that have no curl. It asks once and never again: its caller decides
//! how often to ask, and what follows.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use url::Url;

/// A process that hangs says so within 4 s at `/readyz`.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: foreman healthcheck http://127.0.0.1:9464/readyz")]
pub(crate) struct Args {
    /// The page to ask for; 2xx is well
    url: Url,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    // The URL is in the same container, so a proxy for the world outside must not be used.
    let http = reqwest::Client::builder().no_proxy().timeout(ANSWER_WITHIN).build()?;
    let answer = http.get(args.url.clone()).send().await;
    let answer = answer
        .map_err(reqwest::Error::without_url)
        .with_context(|| format!("nothing answers at {}", args.url))?;
    let status = answer.status();
    let body = answer.text().await.map_err(reqwest::Error::without_url).context("the answer broke off")?;
    if !status.is_success() {
        bail!("{} answers {status}: {}", args.url, body.trim_end());
    }
    Ok(ExitCode::SUCCESS)
}
