//! `foreman-api`: takes jobs in and shows what became of them, over HTTP. Any number of apis run against one Postgres.
//!
//! Must never talk to Ollama, and never keep state that another api lacks.

mod access;
mod app;
mod config;
mod describe;
mod direct;
mod endpoints;
mod forecasts;
mod http;
mod intake;
mod live;
mod queue;
mod refusal;
mod routes;
mod shared_reading;
mod surface;
mod watch;
mod workers;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Extension;
use foreman_live::Bearer;
use foreman_runtime::background::{keep_running, one_line};
use foreman_runtime::http::{self as server, Server};
use foreman_runtime::settings::{self, shared};
use foreman_runtime::{Process, Program, ops};
use foreman_store::{ApiId, ConnectOptions, Seal, Store};
use foreman_webhook::{Guard, SubmissionCheck};
use futures_util::future::join_all;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use access::auth::Auth;
use access::limits::{QueueLimits, StoredBytes};
use access::reads::Reads;
use access::sends::Sends;
use access::shares::{Bounds, Shares};
use app::App;
use config::Config;
use direct::known::Direct;
use forecasts::Forecasts;
use intake::inventory::Inventory;
use intake::submit::{Submitter, Writer};
use live::announcements::Attempts;
use live::hang_ups::HangUps;
use queue::QueueReader;
use watch::Watch;
use workers::Workers;

const PROGRAM: Program = Program {
    name: "foreman-api",
    about: "Foreman's api: takes jobs for Ollama into the queue and tells what becomes of them.",
    version: env!("CARGO_PKG_VERSION"),
    settings: &[shared::PROCESS, shared::JOBS, settings::api::ALL],
    metrics: &[
        &[
            intake::submit::SUBMITTED,
            http::observe::REQUESTS,
            http::observe::REQUEST_SECONDS,
            live::call::SYNC_WAITING,
        ],
        access::shares::METRICS,
        direct::METRICS,
    ],
};

const LIMITS: server::Limits = server::Limits {
    connections: 8_192,
    head: Duration::from_secs(10),
    idle: Duration::from_secs(60),
    stalled: Duration::from_secs(60),
};

fn main() -> ExitCode {
    PROGRAM.run(Config::read, start)
}

async fn start(config: Config, process: &Process) -> anyhow::Result<()> {
    let database = &config.database;
    let options =
        ConnectOptions::new(&database.url, Some(&database.direct_url), database.pool, database.pgbouncer)
            .context("DATABASE_URL cannot be used")?;
    let store = Store::new(options);
    let checked = store.clone();
    let readiness = ops::readiness(move || {
        let store = checked.clone();
        async move { ops::checks(store.readiness().await) }
    });
    process.serve_ops(config.ops_addr, &settings::api::OPS_ADDR, readiness)?;
    let listener = server::listen(config.addr, &settings::api::ADDR)?;
    let bound: Vec<_> = config
        .bound
        .into_iter()
        .map(|(addr, bound)| Ok((server::listen(addr, &settings::api::BOUND)?, bound)))
        .collect::<Result<_, server::BindError>>()?;
    ops::wait_until_ready("Postgres", async || store.can_be_used().await).await;

    let api = ApiId::generate();
    ops::wait_until_ready("its own row", async || {
        live::process::register(&store, api).await.map_err(one_line)
    })
    .await;
    live::call::none_waits_yet();
    let (hang_ups, gone) = HangUps::new();
    let (submitter, submissions) = Submitter::new();
    let stored = StoredBytes::new(store.clone(), config.max_daily_bytes);
    let keys = config.secret_keys.as_ref();
    let app = Arc::new(App {
        // On a connection of its own, so that no sign-in waits behind other clients' reads.
        auth: Auth::new(config.access, store.on_own_connection()),
        inventory: Inventory::new(store.clone()),
        limits: QueueLimits::new(store.clone(), config.max_queued, stored.clone()),
        submitter,
        api,
        workers: Workers::new(
            keys.map(|keys| Bearer::of(keys.current.bytes()).and_previous(keys.previous_bytes())),
        )?,
        direct: Direct::new(),
        attempts: Attempts::default(),
        hang_ups,
        signs_of_streams: config.signs_of_streams,
        signs_of_others: config.signs_of_others,
        queue: QueueReader::new(store.clone()),
        forecasts: Forecasts::new(store.clone()),
        watch: Watch::new(config.max_streams, process.shutdown.soft().clone()),
        receivers: SubmissionCheck::new(Guard::new(config.receivers)),
        incoming: Shares::new(http::body::INCOMING, http::body::bounds(config.max_body)),
        large_parses: Semaphore::new(intake::LARGE_PARSES),
        batch_lines: Arc::new(Semaphore::new(intake::BATCH_LINES)),
        outgoing: Shares::new(http::outgoing::OUTGOING, Bounds::quarters(http::outgoing::ANSWER_BYTES)),
        events: Shares::new(http::outgoing::EVENTS, Bounds::quarters(http::outgoing::STREAM_BYTES)),
        reads: Reads::new(database.pool as usize),
        redeliveries: Sends::redeliveries(),
        examples: Sends::examples(),
        seal: keys.map(|keys| Seal::new(keys.current.bytes()).and_previous(keys.previous_bytes())),
        max_body: config.max_body,
        job_ttl: config.job_ttl,
        inline_limit: config.inline_limit,
        public_url: config.public_url,
        store: store.clone(),
    });

    // The last request may still bring a job, so the submitter ends after it.
    let last_request = CancellationToken::new();
    let writer = Writer {
        flushes: store.on_own_connection(),
        store: store.clone(),
        shutdown: process.shutdown.clone(),
    };
    let shutdown = process.shutdown.clone();
    // A flush may accept a call whose caller has gone, so the last hang-ups come after the last flush.
    let last_flush = CancellationToken::new();
    shutdown.spawn_infallible("submit", {
        let (last_request, last_flush) = (last_request.clone(), last_flush.clone());
        async move {
            writer.run(submissions, last_request).await;
            last_flush.cancel();
        }
    });
    let last_hang_up = CancellationToken::new();
    shutdown.spawn_infallible("hang-ups", {
        let (store, last_hang_up) = (store.clone(), last_hang_up.clone());
        async move {
            HangUps::run(&store, api, gone, last_flush).await;
            last_hang_up.cancel();
        }
    });
    shutdown.spawn_infallible("api-process", {
        let store = store.clone();
        async move { live::process::keep(&store, api, &last_hang_up).await }
    });
    shutdown.spawn_infallible("workers", {
        let (app, stop) = (Arc::clone(&app), last_request.clone());
        async move { app.workers.run(&app.store, &stop).await }
    });
    shutdown.spawn_infallible("announcements", {
        let (app, stop) = (Arc::clone(&app), last_request.clone());
        async move { app.attempts.run(app.api, &app.workers, &stop).await }
    });
    let no_more = last_request.clone();
    shutdown.spawn_infallible("stored-bytes", async move { stored.run(&no_more).await });
    shutdown.spawn_infallible("wakeups", {
        let (store, stop) = (store.clone(), shutdown.soft().clone());
        async move {
            let carry = keep_running("wakeups", || store.wakeups().run(&store));
            stop.run_until_cancelled(carry).await;
        }
    });
    shutdown.spawn_infallible("watch", {
        let (watch, store) = (app.watch.clone(), store.clone());
        async move { watch.run(&store).await }
    });
    shutdown.spawn_infallible("inventory", {
        let (app, stop) = (Arc::clone(&app), shutdown.soft().clone());
        async move { app.inventory.run(&stop).await }
    });
    tracing::info!(address = %listener.local_addr()?, "serving");
    let table = routes::table(app, config.embeddings);
    let mut listeners = Vec::new();
    for (listener, bound) in bound {
        tracing::info!(address = %listener.local_addr()?, client = bound.client(), "serving a bound client");
        listeners.push((listener, table.clone().layer(Extension(bound))));
    }
    listeners.push((listener, table));
    process.shutdown.spawn_infallible("http", async move {
        let server = Server::new("http", LIMITS);
        let serve = |(listener, router)| server.serve(listener, router, &shutdown);
        join_all(listeners.into_iter().map(serve)).await;
        last_request.cancel();
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use foreman_runtime::Env;

    use super::*;

    #[test]
    fn every_setting_that_help_lists_is_read() {
        let env = Env::from_pairs([("DATABASE_URL", "postgres://x")]);
        Config::read(&env).unwrap();
        let elsewhere = ["FOREMAN_LOG", "FOREMAN_LOG_FORMAT", "FOREMAN_SHUTDOWN_GRACE"];
        assert_eq!(env.unread(PROGRAM.settings), elsewhere);
    }
}
