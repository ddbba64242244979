//! `foreman-worker`: runs jobs on an Ollama, writes their history, sends their webhooks, and rescues the jobs of dead
//! workers. Any number of workers share one Postgres. A worker must never keep anything that others would need after
//! its death.

mod config;
mod worker;

mod alone;
mod gather;
mod large_reads;
mod last_rounds;
mod look_at_all;
mod readiness;
mod stale;
mod tries;

mod gauges;
mod janitor;
mod membership;
mod runner;
mod scheduling;
mod stream;
mod webhooks;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use foreman_live::Bearer;
use foreman_ollama::{Client, Failure};
use foreman_runtime::background::keep_running;
use foreman_runtime::settings::{self, shared};
use foreman_runtime::{Process, Program, ops};
use foreman_store::{ConnectOptions, Store};
use mimalloc::MiMalloc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use config::{Config, Role};
use large_reads::LargeReads;
use last_rounds::LastRounds;
use membership::liveness::Liveness;
use membership::peers::Peers;
use stream::live::LiveAnswers;
use webhooks::dispatcher::Desk;
use webhooks::dispatcher::example::Examples;
use webhooks::dispatcher::sender::Sender;
use worker::Worker;

/// Thousands of small things live and die here. With glibc's allocator a job cost a tenth more of our own time.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

const PROGRAM: Program = Program {
    name: "foreman-worker",
    about: "Foreman's worker: runs queued jobs on an Ollama and sends the webhooks that tell of them.",
    version: env!("CARGO_PKG_VERSION"),
    settings: &[shared::PROCESS, shared::JOBS, settings::worker::ALL],
    metrics: &[
        runner::metrics::METRICS,
        webhooks::relay::METRICS,
        webhooks::dispatcher::METRICS,
        janitor::METRICS,
        gauges::METRICS,
        stale::METRICS,
    ],
};

fn main() -> ExitCode {
    PROGRAM.run(Config::read, start)
}

async fn start(config: Config, process: &Process) -> anyhow::Result<()> {
    let database = &config.database;
    let options =
        ConnectOptions::new(&database.url, Some(&database.direct_url), database.pool, database.pgbouncer)
            .context("DATABASE_URL cannot be used")?;
    let ollama = Client::new(config.host.ollama.clone())?;
    let store = Store::new(options);
    let live = LiveAnswers::default();
    let stream = config.roles.contains(&Role::Run).then(|| config.stream.listen()).transpose()?;
    let worker = Arc::new(Worker {
        large_reads: LargeReads::new(store.clone()),
        live: live.clone(),
        stream_url: stream.as_ref().map(|(_, url)| url.clone()),
        store,
        liveness: Liveness::new(config.lease_ttl),
        peers: Peers::default(),
        shutdown: process.shutdown.clone(),
        metrics: process.metrics.clone(),
        config,
    });
    let probed = (Arc::clone(&worker), ollama.clone());
    let readiness = ops::readiness(move || readiness::checks(Arc::clone(&probed.0), probed.1.clone()));
    process.serve_ops(worker.config.ops_addr, &settings::worker::OPS_ADDR, readiness)?;

    if worker.config.roles.contains(&Role::Run)
        && let Err(failure @ Failure::IsForeman { .. }) = ollama.version().await
    {
        return Err(failure.into());
    }
    ops::wait_until_ready("Postgres", async || worker.store.can_be_used().await).await;
    // Runs to the very end of the process: the outcomes that are written while it stops are news to the others too.
    tokio::spawn({
        let store = worker.store.clone();
        async move { keep_running("wakeups", || store.wakeups().run(&store)).await }
    });
    let sends = worker.config.roles.contains(&Role::Dispatch);
    let sender =
        sends.then(|| Sender::new(&worker.config.webhooks, worker.store.clock().clone())).transpose()?;
    if let Some((listener, _)) = stream {
        let bearer = worker
            .config
            .secret_keys
            .as_ref()
            .map(|keys| Bearer::of(keys.current.bytes()).and_previous(keys.previous_bytes()));
        let hard = process.shutdown.hard().clone();
        let examples = sender.clone().map(|sender| Examples::new(&worker, sender));
        let streaming = stream::server::serve(listener, live, ollama.clone(), examples, bearer, hard);
        process.shutdown.spawn_infallible("stream", streaming);
    }
    spawn_roles(&worker, &ollama, sender);
    Ok(())
}

/// Starts the roles of this worker, and keeps the worker registered until all of them have ended.
///
/// `sender` is there for the role dispatch.
fn spawn_roles(worker: &Arc<Worker>, ollama: &Client, sender: Option<Sender>) {
    let shutdown = &worker.shutdown;
    let roles = TaskTracker::new();
    // The order is that of the work: the relay moves the last events of the runner, and the dispatcher sends the last
    // webhooks of the relay. So each of them ends after the one before it.
    let mut before = None;
    let (desk, mut reports) = sender.map(|sender| Desk::new(worker, sender)).unzip();
    for role in &worker.config.roles {
        let (name, its) = (role.as_str(), Arc::clone(worker));
        match role {
            Role::Run => {
                let ended = CancellationToken::new();
                let run = cancelling(ended.clone(), runner::run(its, ollama.clone()));
                shutdown.spawn(name, roles.track_future(run));
                before = Some(ended);
            }
            Role::Relay => {
                shutdown.spawn("gauges", gauges::run(Arc::clone(worker)));
                let ended = CancellationToken::new();
                let last = LastRounds::new(shutdown, before.clone());
                shutdown.spawn(
                    name,
                    roles.track_future(cancelling(
                        ended.clone(),
                        webhooks::relay::run(its, desk.clone(), last),
                    )),
                );
                before = before.map(|_| ended);
            }
            Role::Dispatch => {
                let last = LastRounds::new(shutdown, before.clone());
                let (desk, reports) = desk
                    .clone()
                    .zip(reports.take())
                    .expect("a worker with this role has a sender, and has the role once");
                shutdown.spawn(name, roles.track_future(webhooks::dispatcher::run(its, desk, reports, last)));
            }
            Role::Janitor => shutdown.spawn(name, roles.track_future(janitor::run(its))),
        }
    }
    roles.close();
    let its = Arc::clone(worker);
    shutdown.spawn_infallible("liveness", async move {
        its.liveness.keep(&its.store, &its.config, its.stream_url.as_deref(), roles).await;
    });
}

/// Runs the task, and cancels `ended` when it is over, even if it panics or is dropped.
async fn cancelling<T>(ended: CancellationToken, task: impl Future<Output = T>) -> T {
    let _guard = ended.drop_guard();
    task.await
}
