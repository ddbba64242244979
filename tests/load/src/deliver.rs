//! How many webhooks the worker delivers: ended jobs, each with four events that are due at twenty receivers of four
//! clients. A turn is over when all webhooks have come, once each, and this is recorded.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::ensure;
use bytes::Bytes;
use foreman_store::{ClientId, JobReceiver, JobRequest, Offer, Permit, Phase, Relayed};
use foreman_tests::{Cluster, Db, success, within};
use foreman_webhook::{ReceiverUrl, SigningSecret, sign};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use http_body_util::{BodyExt as _, Empty};
use hyper::Response;

use crate::backend::{Backend, Counter};
use crate::measure::{Sample, Scenario};
use crate::programs::Programs;
use crate::services::{SECRET, Worker, http_client};
use crate::{Scale, cpu, server, workload};

const RECEIVERS: usize = 20;

/// Each client has five receivers. There are several clients because one alone gets only half of the dispatcher's
/// seats.
const CLIENTS: usize = 4;

/// queued, loading, working, done.
const EVENTS: usize = 4;

/// How many requests the baseline has under way.
const CONCURRENCY: usize = 64;

/// How many jobs are claimed and settled together while the backlog is made.
const BATCH: usize = 500;

/// Longer than any machine needs.
const PATIENCE: Duration = Duration::from_secs(180);

pub(crate) struct Deliver<'a> {
    cluster: &'a Cluster,
    /// No job runs on it, but the worker needs an Ollama.
    ollama: Backend,
    receivers: Vec<String>,
    come: Arc<Counter>,
    jobs: usize,
}

impl<'a> Deliver<'a> {
    pub(crate) fn start(cluster: &'a Cluster, scale: &Scale) -> anyhow::Result<Self> {
        let come = Arc::new(Counter::default());
        let counted = Arc::clone(&come);
        let addresses = server::serve(RECEIVERS, move |_, request| {
            let counted = Arc::clone(&counted);
            async move {
                let body = request.into_body().collect().await.expect("the sender sends its body");
                assert!(!body.to_bytes().is_empty(), "a webhook has a body");
                counted.count_one();
                Response::new(Empty::new().boxed())
            }
        })?;
        let receivers = addresses.iter().map(|address| format!("http://{address}/hook")).collect();
        let jobs = scale.deliveries / EVENTS;
        Ok(Self { cluster, ollama: Backend::start()?, receivers, come, jobs })
    }

    fn deliveries(&self) -> usize {
        self.jobs * EVENTS
    }

    /// Makes ended jobs and the webhooks that follow from them.
    async fn make_backlog(&self, db: &Db) -> anyhow::Result<()> {
        let clients: [ClientId; CLIENTS] = std::array::from_fn(|_| ClientId::generate());
        workload::accept(db, self.jobs, |number, request| {
            let url = ReceiverUrl::parse(&self.receivers[number % RECEIVERS]).expect("the URL is one");
            let receiver = JobReceiver { url: url.as_str().to_owned(), origin: url.origin(), events: None };
            JobRequest { client: clients[number % CLIENTS], receiver: Some(receiver), ..request }
        })
        .await;
        let holder = db.holder().await;
        loop {
            let each = i32::try_from(BATCH / CLIENTS)?;
            let offers =
                clients.map(|client| Offer { load_key: workload::MODEL.into(), client, ..db.offer(each) });
            let claimed = db.store.claim(&holder, &offers, BATCH, Permit::Ask).await?;
            if claimed.is_empty() {
                break;
            }
            let begins: Vec<_> = claimed.iter().map(|job| (&job.lease, Phase::Working)).collect();
            db.store.begin(&begins).await?;
            let exits: Vec<_> = claimed.into_iter().map(|job| (job.lease, success())).collect();
            db.settle(&exits).await?;
        }
        while !matches!(db.store.relay(1_000).await?, Relayed::Moved { events: 0, .. }) {}
        let due: i64 = db.value("SELECT count(*) FROM webhook_delivery").await;
        ensure!(usize::try_from(due)? == self.deliveries(), "{due} webhooks are due");
        Ok(())
    }
}

impl Scenario for Deliver<'_> {
    fn name(&self) -> &'static str {
        "deliver"
    }

    fn aim(&self) -> f64 {
        0.35
    }

    async fn baseline(&self) -> anyhow::Result<Sample> {
        let client = http_client()?;
        let secrets: Arc<[SigningSecret]> = [SigningSecret::parse(SECRET)?].into();
        // The average length of the four webhooks of these jobs.
        let body = Bytes::from("x".repeat(450));
        let began = Instant::now();
        stream::iter(0..self.deliveries())
            .map(|number| {
                let request = client.post(&self.receivers[number % RECEIVERS]).body(body.clone());
                let (secrets, body) = (Arc::clone(&secrets), body.clone());
                let send = async move {
                    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
                    let id = sign::message_id("01KA0000000000000000000000", i64::try_from(number)?);
                    let headers = sign::headers(&secrets, &id, i64::try_from(now)?, &body);
                    let signed = headers
                        .into_iter()
                        .fold(request, |request, (name, value)| request.header(name, value));
                    anyhow::Ok(signed.send().await?.error_for_status()?.bytes().await?)
                };
                async { tokio::spawn(send).await? }
            })
            .buffer_unordered(CONCURRENCY)
            .try_for_each(|_| async { Ok(()) })
            .await?;
        Ok(Sample::of(self.deliveries(), began.elapsed()))
    }

    async fn foreman(&self, programs: &Programs) -> anyhow::Result<Sample> {
        let db = Db::on(self.cluster).await;
        self.make_backlog(&db).await?;
        self.come.reset();
        let before = cpu::of_postgres(&db).await;
        let worker = Worker::start(programs, &db, &self.ollama.url, 1);
        within(PATIENCE, "the last webhook", async || {
            let come = self.come.count();
            if come < self.deliveries() { Err(format!("{come} have come")) } else { Ok(()) }
        })
        .await;
        let ended = within(PATIENCE, "the end of every delivery", async || {
            let left: i64 = db.value("SELECT count(*) FROM webhook_delivery").await;
            if left > 0 { Err(format!("{left} are left")) } else { Ok(Instant::now()) }
        })
        .await;
        let sample = Sample::of(self.deliveries(), ended - self.come.first());
        let each = u32::try_from(self.deliveries())?;
        let sample = Sample {
            own_cpu: Some(cpu::of(worker.process.id()) / each),
            postgres_cpu: Some((cpu::of_postgres(&db).await - before) / each),
            ..sample
        };
        worker.has_no_complaints()?;
        let come = self.come.count();
        ensure!(come == self.deliveries(), "{come} webhooks came instead of {}", self.deliveries());
        Ok(sample)
    }
}
