//! The role `run`: claims jobs for one Ollama host, runs them there, and says what became of them.
//!
//! [`floor`] decides, [`attempt`] runs a job, [`record`] writes. [`scan`], [`cancel`] and [`host_watch`] look around and
//! tell the floor.

mod attempt;
mod cancel;
mod decider;
mod fate;
mod floor;
mod host_watch;
mod idle;
mod job;
mod load;
pub(crate) mod metrics;
mod pause;
mod questions;
mod record;
mod residency;
mod scan;
mod signal;
mod trouble;
mod vanished;

use std::sync::Arc;

use foreman_ollama::Client;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::AbortHandle;

use crate::membership::host_lease;
use crate::worker::Worker;
use attempt::Context;
use floor::Floor;
use host_watch::HostWatch;
use record::Recorder;

/// Runs until the soft token, and then until everything that was claimed is done or handed back, and written.
pub(crate) async fn run(worker: Arc<Worker>, ollama: Client) -> anyhow::Result<()> {
    let (signals, inbox) = mpsc::unbounded_channel();
    let (give_command, command) = watch::channel(None);
    let doubt = Arc::new(Notify::new());
    let shutdown = &worker.shutdown;
    let (recorder, begins, exits) = Recorder::new(&worker.store, shutdown, &signals);

    shutdown.spawn_work("begin", begins);
    exits.into_iter().for_each(|exits| {
        shutdown.spawn_work("settle", exits);
    });
    shutdown.spawn("host_lease", host_lease::run(Arc::clone(&worker), give_command));
    let watch = HostWatch {
        worker: Arc::clone(&worker),
        ollama: ollama.clone(),
        command: command.clone(),
        signals: signals.clone(),
        doubt: Arc::clone(&doubt),
    };
    // They look around for as long as the floor goes on, which is longer than the soft token.
    let around = [
        shutdown.spawn_work("inventory", watch.run()),
        shutdown.spawn_work("scan", scan::run(Arc::clone(&worker), command.clone(), signals.clone())),
        shutdown.spawn_work("cancel", cancel::run(Arc::clone(&worker), signals.clone())),
    ];
    let context = Context {
        ollama,
        recorder,
        large_reads: worker.large_reads.clone(),
        limits: worker.config.limits.clone(),
        clock: worker.store.clock().clone(),
    };
    Floor::new(Arc::clone(&worker), context, command, (signals, inbox), doubt).run().await;
    around.iter().for_each(AbortHandle::abort);
    Ok(())
}
