//! One or more hosts behind an api, and what their Ollamas have seen.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use foreman_tests::Db;
use ollama_sim::{Happening, Outcome, Sim};
use tokio::time::sleep;

use super::{Hosts, LOADS};
use crate::mixed::{Planned, clients, ended_after, ollama, request_of, submit};
use crate::programs::Programs;
use crate::services::{Api, Worker, all_are_done, hosts_are_known};

/// By then each host has looked at the other.
const ACQUAINTED: Duration = Duration::from_millis(1_500);

/// Some hosts, each an Ollama with a worker, and an api before them.
pub(super) struct House {
    pub(super) db: Db,
    pub(super) sims: Vec<Sim>,
    pub(super) workers: Vec<Worker>,
    api: Api,
    keys: Vec<String>,
    submitted: usize,
}

/// What the Ollamas have seen of a workload.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub(super) loads: usize,
    /// How many models more than one host has loaded.
    pub(super) on_both: usize,
    /// How many jobs the second host has run: the one of two that has run fewer.
    pub(super) at_second: usize,
    pub(super) makespan: Duration,
}

/// A request that an Ollama has begun to run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    pub(super) host: usize,
    pub(super) began: Instant,
    /// When the whole answer was sent.
    pub(super) done: Option<Instant>,
}

impl House {
    /// Starts so many hosts. When this returns, each knows of the others.
    pub(super) async fn start(
        scenario: &Hosts<'_>,
        programs: &Programs,
        hosts: usize,
    ) -> anyhow::Result<Self> {
        let (db, mut sims) = (Db::on(scenario.cluster).await, Vec::new());
        for _ in 0..hosts {
            sims.push(ollama(1, &LOADS).await?);
        }
        let api = Api::with_keys(programs, &db).await;
        let settings = [("FOREMAN_LEASE_TTL", scenario.lease_ttl)];
        let worker = |sim: &Sim| Worker::with_settings(programs, &db, &sim.url(), 1, &settings);
        let workers = sims.iter().map(worker).collect();
        hosts_are_known(&db, i64::try_from(hosts)?).await;
        sleep(ACQUAINTED).await;
        let keys = clients(&db).await;
        Ok(Self { db, sims, workers, api, keys, submitted: 0 })
    }

    /// Submits this workload.
    pub(super) async fn submit(&mut self, workload: &[Planned], began: Instant) -> anyhow::Result<()> {
        self.submitted += workload.len();
        submit(&self.api, &self.keys, workload, began).await
    }

    /// Waits until everything that was submitted is done.
    pub(super) async fn all_are_done(&self) {
        all_are_done(&self.db, self.submitted).await;
    }

    /// Runs this workload to its end.
    pub(super) async fn run(&mut self, workload: &[Planned]) -> anyhow::Result<Seen> {
        let began = Instant::now();
        self.submit(workload, began).await?;
        self.all_are_done().await;
        self.db.every_job_has_one_room().await;
        self.workers.iter().try_for_each(Worker::has_no_complaints)?;
        each_ran_once(&self.sims, began, workload.len())?;
        Ok(Seen::of(&self.sims, began))
    }
}

impl Seen {
    /// What these Ollamas have seen since a moment.
    pub(super) fn of(sims: &[Sim], since: Instant) -> Self {
        let mut loaded: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (host, sim) in sims.iter().enumerate() {
            let log = sim.log();
            let is_load = |event: &&ollama_sim::Event| {
                event.what == Happening::Loaded && sim.began() + event.at >= since
            };
            for load in log.events.iter().filter(is_load) {
                loaded.entry(load.model.clone()).or_default().push(host);
            }
        }
        let is_on_both = |hosts: &&Vec<usize>| hosts.iter().any(|host| *host != hosts[0]);
        let mut jobs = vec![0; sims.len()];
        runs(sims, since).values().flatten().for_each(|run| jobs[run.host] += 1);
        jobs.sort_unstable_by_key(|jobs| Reverse(*jobs));
        Self {
            loads: loaded.values().map(Vec::len).sum(),
            on_both: loaded.values().filter(is_on_both).count(),
            at_second: jobs.get(1).copied().unwrap_or_default(),
            makespan: ended_after(sims, since),
        }
    }
}

/// By the number of the request: when and where it has run since a moment, in order.
pub(super) fn runs(sims: &[Sim], since: Instant) -> BTreeMap<usize, Vec<Run>> {
    let mut runs: BTreeMap<usize, Vec<Run>> = BTreeMap::new();
    for (host, sim) in sims.iter().enumerate() {
        for record in sim.log().runs() {
            let began = sim.began() + record.started.unwrap_or_default();
            let (Some((_, number)), true) = (request_of(record), began >= since) else { continue };
            let is_done = record.outcome == Some(Outcome::Done);
            let done = record.ended.filter(|_| is_done).map(|ended| sim.began() + ended);
            runs.entry(number).or_default().push(Run { host, began, done });
        }
    }
    runs.values_mut().for_each(|runs| runs.sort_by_key(|run| run.began));
    runs
}

/// Each of so many requests has run once, at one host.
pub(super) fn each_ran_once(sims: &[Sim], since: Instant, requests: usize) -> anyhow::Result<()> {
    let runs = runs(sims, since);
    for number in 0..requests {
        let runs = runs.get(&number).with_context(|| format!("request {number} has not run"))?;
        ensure!(runs.len() == 1 && runs[0].done.is_some(), "request {number} has run as {runs:?}");
    }
    Ok(())
}
