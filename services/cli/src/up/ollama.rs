//! Waiting for Ollama, and saying so. Nothing depends on it: jobs are accepted and kept meanwhile.

use std::time::Duration;

use foreman_ollama::Client;
use tokio::time::sleep;

use crate::terminal::say;

const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Returns when Ollama has answered once.
pub(super) async fn wait(ollama: &Client) {
    let host = ollama.host();
    let mut told = false;
    loop {
        match ollama.version().await {
            Ok(version) => {
                say(format_args!("Ollama {version} answers at {host}."));
                return;
            }
            Err(_) if told => {}
            Err(failure) => {
                told = true;
                say(format_args!("{failure}. Waiting for it; jobs are accepted and kept meanwhile."));
            }
        }
        sleep(LOOK_AGAIN).await;
    }
}
