//! `foreman ollama-models`: what the Ollama at `OLLAMA_HOST` can answer with, for scripts such as `deploy/quickstart`.

use std::process::ExitCode;

use foreman_ollama::{Client, OllamaHost};
use foreman_runtime::{Env, settings::worker};

use crate::terminal::print;

/// One name a line, the smallest model first; fails where no Ollama answers.
pub(crate) async fn run() -> anyhow::Result<ExitCode> {
    let host = Env::from_process().read(&worker::OLLAMA_HOST, OllamaHost::parse)?;
    let mut models = Client::new(host)?.tags().await?;
    models.retain(|model| !model.embeds_only());
    models.sort_by_key(|model| model.size);
    for model in models {
        print(model.name)?;
    }
    Ok(ExitCode::SUCCESS)
}
