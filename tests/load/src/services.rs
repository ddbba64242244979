//! The services under load, with the default settings of production, except their addresses.

use std::time::Duration;

use anyhow::{Context as _, bail};
use foreman_tests::{Db, Process, eventually, free_port, http, within};

use crate::programs::Programs;

/// Signs the webhooks.
pub(crate) const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// Longer than any machine needs for the jobs of a turn.
const PATIENCE: Duration = Duration::from_secs(300);

/// A client that asks as quickly as it can, and asks nobody else.
pub(crate) fn http_client() -> anyhow::Result<reqwest::Client> {
    Ok(reqwest::Client::builder().no_proxy().http1_only().tcp_nodelay(true).build()?)
}

/// Waits until so many jobs are done.
pub(crate) async fn all_are_done(db: &Db, jobs: usize) {
    within(PATIENCE, "the end of every job", async || {
        let done: i64 = db.value("SELECT count(*) FROM job_done WHERE state = 'done'").await;
        if usize::try_from(done).is_ok_and(|done| done == jobs) {
            Ok(())
        } else {
            Err(format!("{done} of {jobs}"))
        }
    })
    .await;
}

/// A `foreman-api` that is ready.
pub(crate) struct Api {
    pub(crate) process: Process,
    pub(crate) address: String,
}

impl Api {
    /// An api for which all callers are one client.
    pub(crate) async fn start(programs: &Programs, db: &Db) -> Self {
        Self::with_auth(programs, db, "off").await
    }

    /// An api whose callers have keys.
    pub(crate) async fn with_keys(programs: &Programs, db: &Db) -> Self {
        Self::with_auth(programs, db, "required").await
    }

    async fn with_auth(programs: &Programs, db: &Db, auth: &str) -> Self {
        let (address, ops) = (loopback(), loopback());
        let settings = [
            ("DATABASE_URL", db.url()),
            ("FOREMAN_API_ADDR", &address),
            ("FOREMAN_API_OPS_ADDR", &ops),
            ("FOREMAN_AUTH", auth),
            ("FOREMAN_LOG_FORMAT", "json"),
            ("FOREMAN_WEBHOOK_ALLOW", "loopback"),
            // All jobs come from one address, and no worker runs them meanwhile.
            ("FOREMAN_CLIENT_MAX_QUEUED", "10000000"),
            ("FOREMAN_CLIENT_MAX_QUEUED_BYTES", "100GiB"),
            ("FOREMAN_CLIENT_MAX_DAILY_BYTES", "1TiB"),
        ];
        let process = Process::start(&programs.path("foreman-api"), &[], &settings);
        ready(&ops).await;
        Self { process, address }
    }
}

/// A `foreman-worker` with all its roles.
pub(crate) struct Worker {
    pub(crate) process: Process,
}

impl Worker {
    /// Starts a worker and returns at once, because the waiting work is the measure.
    pub(crate) fn start(programs: &Programs, db: &Db, ollama: &str, slots: usize) -> Self {
        Self::with_models(programs, db, ollama, slots, 1)
    }

    /// Starts one whose Ollama holds several models at once.
    pub(crate) fn with_models(
        programs: &Programs,
        db: &Db,
        ollama: &str,
        slots: usize,
        together: usize,
    ) -> Self {
        let together = together.to_string();
        // An older worker does not know this setting, and says so.
        let more: &[_] = if together == "1" { &[] } else { &[("FOREMAN_MODELS_TOGETHER", &*together)] };
        Self::with_settings(programs, db, ollama, slots, more)
    }

    /// Starts one with more settings.
    pub(crate) fn with_settings(
        programs: &Programs,
        db: &Db,
        ollama: &str,
        slots: usize,
        more: &[(&str, &str)],
    ) -> Self {
        let ops = loopback();
        let slots = slots.to_string();
        let settings = [
            ("DATABASE_URL", db.url()),
            ("OLLAMA_HOST", ollama),
            ("FOREMAN_WORKER_OPS_ADDR", &ops),
            ("FOREMAN_WORKER_STREAM_ADDR", "127.0.0.1:0"),
            ("FOREMAN_WORKER_SLOTS", &slots),
            ("FOREMAN_LOG_FORMAT", "json"),
            ("FOREMAN_WEBHOOK_ALLOW", "loopback"),
            ("FOREMAN_WEBHOOK_SECRET", SECRET),
        ];
        let settings = [&settings[..], more].concat();
        Self { process: Process::start(&programs.path("foreman-worker"), &[], &settings) }
    }

    /// Starts a worker that runs no jobs.
    pub(crate) fn dispatcher(programs: &Programs, db: &Db) -> Self {
        let ops = loopback();
        let settings = [
            ("DATABASE_URL", db.url()),
            ("FOREMAN_WORKER_ROLES", "relay,dispatch,janitor"),
            ("FOREMAN_WORKER_OPS_ADDR", &ops),
            ("FOREMAN_LOG_FORMAT", "json"),
            ("FOREMAN_WEBHOOK_ALLOW", "loopback"),
            ("FOREMAN_WEBHOOK_SECRET", SECRET),
        ];
        Self { process: Process::start(&programs.path("foreman-worker"), &[], &settings) }
    }

    /// Whether the worker logged no warning and no error.
    pub(crate) fn has_no_complaints(&self) -> anyhow::Result<()> {
        complaints(&self.process)
    }
}

/// Returns when a worker has listed its models, so that jobs are accepted.
pub(crate) async fn models_are_known(db: &Db) {
    hosts_are_known(db, 1).await;
}

/// Returns when the workers of so many hosts have listed their models.
pub(crate) async fn hosts_are_known(db: &Db, hosts: i64) {
    let published = "SELECT count(*) FROM host WHERE published_at IS NOT NULL";
    eventually("hosts that have published", async || match db.value::<i64>(published).await {
        known if known < hosts => Err(format!("{known} of {hosts} have")),
        _ => Ok(()),
    })
    .await;
}

/// A service that met errors gives no valid figure.
pub(crate) fn complaints(process: &Process) -> anyhow::Result<()> {
    let log = process.log();
    let complaint = log
        .lines()
        .find(|line| ["WARN", "ERROR"].iter().any(|level| line.contains(&format!("\"level\":\"{level}\""))));
    match complaint {
        None => Ok(()),
        Some(line) => bail!("it complained: {line}"),
    }
}

fn loopback() -> String {
    format!("127.0.0.1:{}", free_port())
}

async fn ready(ops: &str) {
    eventually("an api that is ready", async || {
        let answer = http().get(format!("http://{ops}/readyz")).send().await.context("no answer")?;
        if answer.status().is_success() { Ok(()) } else { bail!("{}", answer.status()) }
    })
    .await;
}
