//! How many jobs the worker runs: a backlog, 64 slots, and an Ollama that answers at once. Every job passes through
//! every state. A turn is over when all jobs are done and their events are in the history.

use std::time::{Duration, Instant};

use anyhow::ensure;
use foreman_tests::{Cluster, Db, within};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use crate::backend::Backend;
use crate::measure::{Sample, Scenario};
use crate::programs::Programs;
use crate::services::{Worker, http_client};
use crate::{Scale, cpu, workload};

const SLOTS: usize = 64;

/// queued, loading, working, done.
const EVENTS: usize = 4;

/// Longer than any machine needs.
const PATIENCE: Duration = Duration::from_secs(180);

pub(crate) struct Run<'a> {
    cluster: &'a Cluster,
    backend: Backend,
    jobs: usize,
}

impl<'a> Run<'a> {
    pub(crate) fn start(cluster: &'a Cluster, scale: &Scale) -> anyhow::Result<Self> {
        Ok(Self { cluster, backend: Backend::start()?, jobs: scale.jobs })
    }
}

impl Scenario for Run<'_> {
    fn name(&self) -> &'static str {
        "run"
    }

    fn aim(&self) -> f64 {
        0.25
    }

    async fn baseline(&self) -> anyhow::Result<Sample> {
        let client = http_client()?;
        let url = format!("{}/api/chat", self.backend.url);
        let body = bytes::Bytes::from(workload::ollama_body());
        let began = Instant::now();
        stream::iter(0..self.jobs)
            .map(|_| {
                let request = client.post(&url).header("content-type", "application/json").body(body.clone());
                // One task per request, as in the worker, so that the requests use all cores.
                let ask = async move { request.send().await?.error_for_status()?.bytes().await };
                async { anyhow::Ok(tokio::spawn(ask).await??) }
            })
            .buffer_unordered(SLOTS)
            .try_for_each(|answer| async move {
                ensure!(!answer.is_empty(), "an empty answer");
                Ok(())
            })
            .await?;
        Ok(Sample::of(self.jobs, began.elapsed()))
    }

    async fn foreman(&self, programs: &Programs) -> anyhow::Result<Sample> {
        let db = Db::on(self.cluster).await;
        workload::accept(&db, self.jobs, |_, job| job).await;
        self.backend.jobs().reset();
        let before = cpu::of_postgres(&db).await;
        let worker = Worker::start(programs, &db, &self.backend.url, SLOTS);
        within(PATIENCE, "the last request", async || {
            let come = self.backend.jobs().count();
            if come < self.jobs { Err(format!("{come} have come")) } else { Ok(()) }
        })
        .await;
        let ended = within(PATIENCE, "the end of every job", async || {
            let events: i64 = db.value("SELECT count(*) FROM job_event").await;
            let all = i64::try_from(EVENTS * self.jobs).unwrap_or(i64::MAX);
            if events < all { Err(format!("{events} of {all} events")) } else { Ok(Instant::now()) }
        })
        .await;
        let sample = Sample::of(self.jobs, ended - self.backend.jobs().first());
        let jobs = u32::try_from(self.jobs)?;
        let sample = Sample {
            own_cpu: Some(cpu::of(worker.process.id()) / jobs),
            postgres_cpu: Some((cpu::of_postgres(&db).await - before) / jobs),
            ..sample
        };
        worker.has_no_complaints()?;
        let done: i64 = db.value("SELECT count(*) FROM job_done WHERE state = 'done'").await;
        let come = self.backend.jobs().count();
        ensure!(
            usize::try_from(done)? == self.jobs && come == self.jobs,
            "{done} jobs are done, {come} requests came"
        );
        db.every_job_has_one_room().await;
        Ok(sample)
    }
}
