//! Waits until the services answer.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::addresses::dialled;
use crate::terminal::say;

const LOOK_AGAIN: Duration = Duration::from_millis(100);
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Longer than any healthy start. After this, tell the waiting person what is missing.
const SAY_AFTER: Duration = Duration::from_secs(10);

pub(super) struct Probe(reqwest::Client);

impl Probe {
    pub(super) fn new() -> anyhow::Result<Self> {
        Ok(Self(reqwest::Client::builder().no_proxy().timeout(ANSWER_WITHIN).build()?))
    }

    /// Returns when the service at this ops address answers 200.
    pub(super) async fn passes(&self, ops: SocketAddr, check: &str) -> anyhow::Result<()> {
        let url = format!("http://{}/{check}", dialled(ops));
        let mut say_at = Some(Instant::now() + SAY_AFTER);
        loop {
            let problem = match self.0.get(&url).send().await {
                Ok(answer) if answer.status().is_success() => return Ok(()),
                Ok(answer) => answer.text().await.unwrap_or_else(|error| error.to_string()),
                Err(_) => "no answer".to_owned(),
            };
            if say_at.is_some_and(|at| at < Instant::now()) {
                say_at = None;
                say(format_args!("Waiting for {url}: {}", problem.trim()));
            }
            sleep(LOOK_AGAIN).await;
        }
    }
}
