//! How many jobs the api accepts: 64 connections, each of which waits for its 202, which comes after the commit.

use std::time::{Duration, Instant};

use foreman_store::PublishedModel;
use foreman_tests::{Cluster, Db};
use tokio::runtime;

use crate::connection::{Seen, drive};
use crate::measure::{Sample, Scenario};
use crate::programs::Programs;
use crate::services::{Api, complaints};
use crate::workload::{MODEL, request_body};
use crate::{Scale, cpu, pgbench};

const CONNECTIONS: usize = 64;

/// Time before the count begins, in which connections are made and statements prepared.
const WARM_UP: Duration = Duration::from_secs(1);

pub(crate) struct Accept<'a> {
    cluster: &'a Cluster,
    length: Duration,
}

impl<'a> Accept<'a> {
    pub(crate) fn new(cluster: &'a Cluster, scale: &Scale) -> Self {
        Self { cluster, length: scale.accept_for }
    }
}

impl Scenario for Accept<'_> {
    fn name(&self) -> &'static str {
        "accept"
    }

    fn aim(&self) -> f64 {
        1.5
    }

    async fn baseline(&self) -> anyhow::Result<Sample> {
        let db = Db::on(self.cluster).await;
        pgbench::make_tables(&db).await;
        let before = cpu::of_postgres(&db).await;
        let sample = pgbench::run(&db, self.length)?;
        let jobs: i64 = db.value("SELECT count(*) FROM plain_job").await;
        let used = cpu::of_postgres(&db).await - before;
        Ok(Sample { postgres_cpu: Some(used / u32::try_from(jobs)?), ..sample })
    }

    async fn foreman(&self, programs: &Programs) -> anyhow::Result<Sample> {
        let db = Db::on(self.cluster).await;
        publish_model(&db).await;
        let api = Api::start(programs, &db).await;
        let begin = Instant::now() + WARM_UP;
        let end = begin + self.length;
        let address = api.address.clone();
        let load = tokio::task::spawn_blocking(move || load(&address, begin, end));
        tokio::time::sleep_until(begin.into()).await;
        let (api_before, postgres_before) = (cpu::of(api.process.id()), cpu::of_postgres(&db).await);
        tokio::time::sleep_until(end.into()).await;
        let (api_after, postgres_after) = (cpu::of(api.process.id()), cpu::of_postgres(&db).await);
        let seen = load.await??;
        complaints(&api.process)?;
        let jobs: i64 = db.value("SELECT count(*) FROM job").await;
        anyhow::ensure!(
            jobs >= i64::try_from(seen.answers)?,
            "{jobs} jobs are there, {} were accepted",
            seen.answers
        );
        db.every_job_has_one_room().await;
        let each = |used: Duration| Some(used / u32::try_from(seen.answers).unwrap_or(u32::MAX));
        Ok(Sample {
            own_cpu: each(api_after - api_before),
            postgres_cpu: each(postgres_after - postgres_before),
            latency: Some((seen.latency_at(0.5), seen.latency_at(0.99))),
            ..Sample::of(seen.answers, self.length)
        })
    }
}

/// All connections share one thread, because the cores belong to the services.
fn load(address: &str, begin: Instant, end: Instant) -> anyhow::Result<Seen> {
    let body = request_body();
    let request = format!(
        "POST /jobs HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let connections = (0..CONNECTIONS).map(|_| drive(address, request.as_bytes(), begin, end));
        let mut all = Seen::nothing();
        for seen in futures_util::future::try_join_all(connections).await? {
            all.add(&seen);
        }
        Ok(all)
    })
}

/// Publishes the models, because no worker does it here.
pub(crate) async fn publish_model(db: &Db) {
    let holder = db.holder().await;
    let model =
        PublishedModel { canonical: "tiny-a:latest".to_owned(), label: MODEL.to_owned(), completes: true };
    let published = db.store.publish_models(&holder, &[model]).await;
    assert!(published.expect("Postgres answers"), "nobody has taken the host from us");
}
