//! The Ollama that this environment names: by which address, whether it answers, and what it has.

use std::time::Duration;

use foreman_ollama::{Client, Failure, InstalledModel, OllamaHost};
use foreman_runtime::settings::worker;
use tokio::time::timeout;

use super::finding::{Finding, count};
use super::installation::{Installation, is_in_container};
use crate::api::innermost;
use crate::terminal::one_line;
use crate::up::environment::is_set;

/// An Ollama that is there answers these from memory.
const ANSWER_WITHIN: Duration = Duration::from_secs(8);

/// Why OLLAMA_HOST is not looked at.
pub(super) const SPOKEN_FOR: &str =
    "OLLAMA_HOST is not set here, and workers speak for their own Ollamas: see hosts.";

/// Whether somebody set it. Then it is checked even where workers speak for their own Ollamas.
pub(super) fn is_named() -> bool {
    is_set(&worker::OLLAMA_HOST)
}

pub(super) async fn look(site: &Installation) -> anyhow::Result<Vec<Finding>> {
    let (text, host) = match site
        .env
        .read(&worker::OLLAMA_HOST, |text| OllamaHost::parse(text).map(|host| (text.to_owned(), host)))
    {
        Ok(read) => read,
        Err(error) => return Ok(vec![Finding::trouble(format!("{error}."), "OLLAMA_HOST=HOST:PORT")]),
    };
    let by = if is_named() {
        format!("OLLAMA_HOST={text} is read as that")
    } else {
        "the default; OLLAMA_HOST is not set".to_owned()
    };
    let client = Client::new(host.clone())?;
    let answered =
        timeout(ANSWER_WITHIN, async { Ok((client.version().await?, client.tags().await?)) }).await;
    Ok(match answered {
        Ok(Ok((version, models))) => {
            let at = format!("Ollama {version} answers at {host} ({by}).");
            vec![Finding::ok(at), installed(&models, &host)]
        }
        Ok(Err(failure)) => vec![failed(&failure, &text, &host, &by)],
        Err(_elapsed) => vec![Finding::trouble(
            format!("Ollama does not answer at {host} within {} s ({by}).", ANSWER_WITHIN.as_secs()),
            format!(
                "curl {host}/api/version  (if that hangs too, restart Ollama there or mend the way to it)"
            ),
        )],
    })
}

fn failed(failure: &Failure, text: &str, host: &OllamaHost, by: &str) -> Finding {
    match failure {
        Failure::IsForeman { .. } => Finding::trouble(
            format!(
                "OLLAMA_HOST leads to {host}, which is Foreman itself: its jobs would wait for themselves."
            ),
            "set OLLAMA_HOST for the workers to the Ollama behind Foreman, such as 127.0.0.1:11434",
        ),
        Failure::Unreachable { source, .. } => {
            let why = one_line(&innermost(source));
            Finding::trouble(format!("No Ollama answers at {host} ({by}): {why}."), mend(text, host))
        }
        other => Finding::trouble(
            format!("What answers at {host} ({by}) is no Ollama: {other}."),
            "set OLLAMA_HOST to an Ollama; curl HOST:PORT/api/version tells one",
        ),
    }
}

fn mend(text: &str, host: &OllamaHost) -> String {
    if text.contains("://") && matches!(host.port(), 80 | 443) {
        return format!(
            "a URL without a port means port {}, and Ollama listens on 11434: set OLLAMA_HOST={}:11434",
            host.port(),
            host.url().host_str().unwrap_or("HOST")
        );
    }
    if host.is_loopback() {
        let elsewhere = if is_in_container() {
            "in a container loopback is the container itself: OLLAMA_HOST=ollama:11434 or host.docker.internal:11434"
        } else {
            "if it is elsewhere, set OLLAMA_HOST"
        };
        return format!("ollama serve  (or systemctl start ollama; {elsewhere})");
    }
    format!(
        "start it there with OLLAMA_HOST=0.0.0.0:{} (by default Ollama listens on loopback alone), open the way to it, or mend \
         OLLAMA_HOST",
        host.port()
    )
}

fn installed(models: &[InstalledModel], host: &OllamaHost) -> Finding {
    let pull = || format!("OLLAMA_HOST={host} ollama pull llama3.2  (or another model)");
    match models {
        [] => Finding::trouble(format!("The Ollama at {host} has no model."), pull()),
        models if models.iter().all(InstalledModel::embeds_only) => Finding::trouble(
            format!("The Ollama at {host} has models for embeddings alone; no job can run."),
            pull(),
        ),
        models => Finding::ok(format!("It has {}.", count(models.len(), "model"))),
    }
}
