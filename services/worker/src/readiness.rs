//! Whether this worker process is ready: the checks of `/readyz`, and the wait for Postgres at the start. (Jobs that
//! are ready are the concern of `scheduling/backlog.rs`.)

use std::sync::Arc;
use std::time::Duration;

use foreman_ollama::Client;
use foreman_runtime::ops::Check;
use foreman_store::{CLOCK_TOLERANCE, Store, days_ahead_needed, schema_version_needed};

use crate::config::Role;
use crate::worker::Worker;

/// Ollama answers a question for its version from memory, so a healthy one needs much less.
const OLLAMA_WITHIN: Duration = Duration::from_secs(2);

/// At the start: the wait between two looks at a Postgres that does not answer yet, or is not migrated yet.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

pub(crate) async fn checks(worker: Arc<Worker>, ollama: Client) -> Vec<Check> {
    let store = &worker.store;
    let (database, partitions, clock) = tokio::join!(schema(store), partitions(store), clock(store));
    let mut checks = vec![
        Check::new("database", database),
        Check::new("partitions", partitions),
        Check::new("clock", clock),
    ];
    // A worker without the role `run` needs neither Ollama nor models.
    if worker.config.roles.contains(&Role::Run) {
        let (ollama, models) = tokio::join!(reachable(&ollama), published(&worker));
        checks.extend([Check::new("ollama", ollama), Check::new("models", models)]);
    }
    checks
}

/// Waits until Postgres answers and its schema is new enough, and logs each new reason to wait.
pub(crate) async fn database(store: &Store) {
    let mut said = String::new();
    while let Err(problem) = schema(store).await {
        if problem != said {
            tracing::warn!("waiting: {problem}");
            said = problem;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

async fn schema(store: &Store) -> Result<(), String> {
    let needed = schema_version_needed();
    match store.schema_version().await {
        Ok(Some(version)) if version >= needed => Ok(()),
        Ok(found) => Err(format!(
            "the schema is at version {} and {needed} is needed; run `foreman migrate`",
            found.unwrap_or(0)
        )),
        Err(error) => Err(away(error)),
    }
}

async fn partitions(store: &Store) -> Result<(), String> {
    let needed = days_ahead_needed();
    match store.partition_days_ahead().await {
        Ok(ahead) if ahead >= needed => Ok(()),
        Ok(ahead) => Err(format!(
            "partitions are made for {ahead} days ahead and {needed} are needed; start a worker with the role janitor, \
             or run `foreman migrate`"
        )),
        Err(error) => Err(away(error)),
    }
}

async fn clock(store: &Store) -> Result<(), String> {
    match store.learn_time().await {
        Ok(offset) if offset.abs() <= CLOCK_TOLERANCE => Ok(()),
        Ok(offset) => Err(format!(
            "Postgres' clock is {} s from this machine's; set both by NTP",
            offset.num_milliseconds() as f64 / 1_000.0
        )),
        Err(error) => Err(away(error)),
    }
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
        Err(error) => Err(away(error)),
    }
}

fn away(error: impl Into<anyhow::Error>) -> String {
    format!("Postgres does not do what it is asked to ({:#}); mend DATABASE_URL or Postgres", error.into())
}
