//! The role `run`: it claims jobs for one Ollama host, runs them there, and records how each one ended.
//!
//! [`decider`] decides, [`floor`] carries the decisions out, [`attempt`] runs one job, and [`record`] writes to Postgres.
//! Floor and attempts have a [`thread`] of their own.
//! [`scan`], [`cancel`] and [`host_watch`] watch Postgres and Ollama, and tell the floor what they see.

mod answer;
mod attempt;
mod cancel;
mod decider;
mod fate;
mod floor;
mod forecaster;
mod host_watch;
mod idle;
mod job;
mod load;
pub(crate) mod metrics;
mod neighbours;
mod operator;
mod pause;
mod publisher;
mod questions;
mod record;
mod scan;
mod signal;
mod thread;
mod told_times;
mod trouble;
mod unload;
mod vanished;

use std::sync::Arc;

use foreman_ollama::Client;
use foreman_store::{Holder, HostPlan};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::AbortHandle;

use crate::membership::host_lease;
use crate::worker::Worker;
use attempt::Context;
use floor::{Floor, Looks};
use host_watch::HostWatch;
use record::Recorder;
use told_times::ToldTimes;

/// Claims and runs jobs until the soft token. Then it returns once every claimed job is done or handed back, and
/// Postgres has its outcome.
pub(crate) async fn run(worker: Arc<Worker>, ollama: Client) -> anyhow::Result<()> {
    let (signals, inbox) = mpsc::unbounded_channel();
    // Who may claim: nobody, or this worker once it alone uses the host's slots.
    let (give_holder, holder) = watch::channel(None);
    let (look_at_host, scan_now) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let shutdown = &worker.shutdown;
    let (recorder, begins, exits) = Recorder::new(&worker.store, shutdown, &signals);

    shutdown.spawn_work("begin", begins);
    exits.into_iter().for_each(|exits| {
        shutdown.spawn_work("settle", exits);
    });
    let (its, its_ollama, its_signals) = (Arc::clone(&worker), ollama.clone(), signals.clone());
    let prepare = async move |holder: &Holder| {
        operator::look(&its, &its_signals).await;
        neighbours::look(&its, &its_signals).await;
        publisher::remember(&its, &holder.host, &its_ollama, &its_signals).await;
    };
    shutdown.spawn("host_lease", host_lease::run(Arc::clone(&worker), give_holder, prepare));
    let watch = HostWatch {
        worker: Arc::clone(&worker),
        ollama: ollama.clone(),
        holder: holder.clone(),
        signals: signals.clone(),
        look_now: Arc::clone(&look_at_host),
    };
    let plans = watch::Sender::new(HostPlan::default());
    let (ask_floor, forecasts) = mpsc::channel(1);
    let told = ToldTimes::default();
    // The floor needs these tasks after the soft token too, until it has finished.
    let watchers = [
        shutdown.spawn_work("inventory", watch.run()),
        shutdown.spawn_work(
            "scan",
            scan::run(Arc::clone(&worker), holder.clone(), signals.clone(), Arc::clone(&scan_now)),
        ),
        shutdown
            .spawn_work("neighbours", neighbours::run(Arc::clone(&worker), holder.clone(), signals.clone())),
        shutdown.spawn_work("operator", operator::run(Arc::clone(&worker), signals.clone())),
        shutdown.spawn_work("cancel", cancel::run(Arc::clone(&worker), signals.clone())),
        shutdown.spawn_work(
            "plan",
            publisher::run(Arc::clone(&worker), holder.clone(), plans.subscribe(), signals.clone()),
        ),
        shutdown.spawn_work(
            "forecast",
            forecaster::run(Arc::clone(&worker), holder.clone(), ask_floor, told.clone()),
        ),
    ];
    let context = Context {
        // A client of its own, so that its connections belong to the floor's thread: a connection stays where it was opened.
        ollama: Client::new(ollama.host().clone())?,
        recorder,
        large_reads: worker.large_reads.clone(),
        limits: worker.config.limits.clone(),
        clock: worker.store.clock().clone(),
        signals: signals.clone(),
        told,
    };
    let looks = Looks { at_host: look_at_host, for_jobs: scan_now };
    let floor = Floor::new(Arc::clone(&worker), context, holder, (signals, inbox), looks, plans, forecasts);
    thread::start()?.spawn(floor.run()).await?;
    watchers.iter().for_each(AbortHandle::abort);
    worker.live.close();
    Ok(())
}
