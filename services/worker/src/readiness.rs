//! Whether this worker process is ready: the checks of `/readyz`. (`scheduling/backlog.rs` is about jobs that are ready.)

use std::sync::Arc;
use std::time::Duration;

use foreman_ollama::Client;
use foreman_runtime::background::one_line;
use foreman_runtime::ops::{self, Check};

use crate::config::Role;
use crate::worker::Worker;

/// Ollama answers a question for its version from memory, so a healthy one needs much less.
const OLLAMA_WITHIN: Duration = Duration::from_secs(2);

pub(crate) async fn checks(worker: Arc<Worker>, ollama: Client) -> Vec<Check> {
    let mut checks = ops::checks(worker.store.readiness().await);
    // A worker without the role `run` needs neither Ollama nor models.
    if worker.config.roles.contains(&Role::Run) {
        let (ollama, models) = tokio::join!(reachable(&ollama), published(&worker));
        checks.extend([Check::new("ollama", ollama), Check::new("models", models)]);
    }
    checks
}

async fn reachable(ollama: &Client) -> Result<(), String> {
    match tokio::time::timeout(OLLAMA_WITHIN, ollama.version()).await {
        Ok(Ok(_version)) => Ok(()),
        Ok(Err(failure)) => Err(failure.to_string()),
        Err(_elapsed) => Err(format!("Ollama at {} does not answer; look at its log", ollama.host())),
    }
}

/// Whether some worker has published the models of this host. Before that, the api refuses every job.
async fn published(worker: &Worker) -> Result<(), String> {
    let host = worker.config.host.id.as_str();
    match worker.store.has_published(host).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(format!(
            "no worker has listed the models of the host {host} yet; whoever holds it does so as soon as Ollama answers"
        )),
        Err(error) => Err(format!("{}; look at Postgres", one_line(error))),
    }
}
