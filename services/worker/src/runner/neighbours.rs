//! Tells the floor what the other hosts do, again and again while this worker holds its host.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use foreman_ollama::ModelName;
use foreman_runtime::{background_error, stalls};
use foreman_store::wake::Topic;
use foreman_store::{Holder, NeighbourHost, StoreError};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::signal::Signal;
use crate::scheduling::key::{self, Key};
use crate::scheduling::neighbours::{Intent, Neighbour};
use crate::scheduling::plan::publication;
use crate::worker::Worker;

/// The time between two looks. The others publish as often what they do.
const REST: Duration = Duration::from_secs(1);

pub(super) async fn run(
    worker: Arc<Worker>,
    mut holder: watch::Receiver<Option<Holder>>,
    signals: mpsc::UnboundedSender<Signal>,
) {
    let mut published = worker.store.wakeups().subscribe(Topic::Published);
    while holder.wait_for(Option::is_some).await.is_ok() {
        look(&worker, &signals).await;
        // A host that has come up says so at once.
        _ = timeout(REST, published.changed()).await;
    }
}

/// Looks once. A new holder does so before it claims anything.
pub(super) async fn look(worker: &Worker, signals: &mpsc::UnboundedSender<Signal>) {
    match stalls::round("neighbours", stalls::USUAL, read(worker)).await {
        // Sending fails only when the floor has ended.
        Ok((hosts, intents)) => _ = signals.send(Signal::Neighbours(hosts, intents)),
        Err(error) => background_error!("neighbours", error),
    }
}

async fn read(worker: &Worker) -> Result<(Vec<Neighbour>, HashMap<Key, Intent>), StoreError> {
    let hosts = worker.store.neighbours(worker.config.host.id.as_str()).await?;
    if hosts.is_empty() {
        return Ok((Vec::new(), HashMap::new()));
    }
    let intents = worker.store.host_intents().await?.into_iter();
    let intents = intents.filter_map(|intent| {
        let foreman_store::HostIntent { load_key, host, number, is_new } = intent;
        Some((key::read(&load_key)?, Intent { host, number, is_new }))
    });
    Ok((hosts.into_iter().map(neighbour).collect(), intents.collect()))
}

fn neighbour(host: NeighbourHost) -> Neighbour {
    let NeighbourHost { id, slots, models, plan } = host;
    let measured = plan.runners.iter();
    let measured = measured.filter_map(|one| Some((key::read(&one.load_key)?, publication::measured(one))));
    Neighbour {
        id,
        slots,
        models: models.iter().filter_map(|model| ModelName::parse(model).ok()).collect(),
        // What has the turn is loaded, or will be in a moment.
        loaded: plan.turn.iter().chain(&plan.loaded).filter_map(|runner| key::read(runner)).collect(),
        measured: measured.collect(),
    }
}
