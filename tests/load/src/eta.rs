//! Whether the time that a waiting job is told holds: jobs of several clients and models come at random, each asks once when
//! it is expected to begin, and then its begin is looked up.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use chrono::{DateTime, Utc};
use foreman_tests::{Cluster, Db};
use futures_util::future::try_join_all;
use rand::RngExt as _;
use serde_json::{Value, json};
use tokio::time::{sleep, sleep_until};

use crate::Scale;
use crate::measure::median;
use crate::mixed::{CLIENTS, between_arrivals, clients, ollama, seeded};
use crate::programs::Programs;
use crate::services::{Api, Worker, all_are_done, http_client, models_are_known};

/// A tenth of what models take that load within 5 to 20 s.
const LOADS: [u64; 5] = [500, 800, 1_200, 1_600, 2_000];
const RUNS: std::ops::Range<u64> = 20..500;
/// On average. Half of what the GPU could run without loads.
const BETWEEN_JOBS: f64 = 0.5;
/// A forecast is made once a second.
const ASKS_AFTER: Duration = Duration::from_millis(1_500);
/// Who waits less does not ask for long.
const MIN_WAIT: f64 = 1.0;

pub(crate) struct Eta<'a> {
    cluster: &'a Cluster,
    jobs: usize,
}

/// What a job was told, and when it asked.
struct Told {
    id: String,
    asked_at: DateTime<Utc>,
    eta: Option<DateTime<Utc>>,
}

impl<'a> Eta<'a> {
    pub(crate) fn new(cluster: &'a Cluster, scale: &Scale) -> Self {
        Self { cluster, jobs: scale.mixed }
    }

    pub(crate) async fn measure(&self, contenders: &[Programs]) -> anyhow::Result<String> {
        let mut table = String::from(
            "\n| when a job begins | jobs | of those that waited a second more, were told a time | median error | within a factor of two | told less than half of it | told more than twice | aim |\n\
             |---|---:|---:|---:|---:|---:|---:|---|\n",
        );
        for programs in contenders {
            let (waited, errors) = self.errors(programs).await.with_context(|| programs.to_string())?;
            let median = median(errors.iter().map(|(error, _)| *error).collect()).unwrap_or_default();
            let part = |is: fn(f64) -> bool| {
                let count = errors.iter().filter(|(_, factor)| is(*factor)).count();
                count as f64 * 100.0 / errors.len().max(1) as f64
            };
            writeln!(
                table,
                "| {programs} | {} | {} of {waited} | {:.0} % | {:.0} % | {:.0} % | {:.0} % | 25 %, 90 % |",
                self.jobs,
                errors.len(),
                median * 100.0,
                part(|factor| (0.5..=2.0).contains(&factor)),
                part(|factor| factor < 0.5),
                part(|factor| factor > 2.0),
            )?;
        }
        Ok(table)
    }

    /// How many jobs still waited for long when they asked, and of those that were told a time: the error as a part of the
    /// wait, and the wait that was told as a part of it.
    async fn errors(&self, programs: &Programs) -> anyhow::Result<(usize, Vec<(f64, f64)>)> {
        let sim = ollama(1, &LOADS).await?;
        let db = Db::on(self.cluster).await;
        let api = Api::with_keys(programs, &db).await;
        let worker = Worker::start(programs, &db, &sim.url(), 1);
        models_are_known(&db).await;
        let (keys, http) = (clients(&db).await, http_client()?);
        let (mut random, mut at, began) = (seeded(), Duration::ZERO, Instant::now());
        let jobs = (0..self.jobs).map(|number| {
            at += between_arrivals(&mut random, BETWEEN_JOBS);
            let (model, run) = (random.random_range(0..LOADS.len()), random.random_range(RUNS));
            let prompt = format!("{number} sim:tokens=1 sim:prompt-delay={run}ms");
            let body = json!({"model": format!("model-{model}"), "prompt": prompt}).to_string();
            (began + at, &keys[random.random_range(0..CLIENTS)], body)
        });
        let asks = async |(at, key, body): (Instant, &String, String)| -> anyhow::Result<Told> {
            sleep_until(at.into()).await;
            let url = format!("http://{}/jobs", api.address);
            let answer = http.post(&url).bearer_auth(key).body(body).send().await?;
            ensure!(answer.status() == 202, "{}", answer.text().await?);
            let answer: Value = serde_json::from_str(&answer.text().await?)?;
            let id = answer["job_id"].as_str().context("a job without an id")?.to_owned();
            sleep(ASKS_AFTER).await;
            let job = http.get(format!("{url}/{id}")).bearer_auth(key).send().await?.text().await?;
            let job: Value = serde_json::from_str(&job)?;
            let eta = job["eta"].as_str().map(str::parse).transpose()?;
            Ok(Told { id, asked_at: Utc::now(), eta })
        };
        let told = try_join_all(jobs.collect::<Vec<_>>().into_iter().map(asks)).await?;
        all_are_done(&db, self.jobs).await;
        worker.has_no_complaints()?;
        let (mut waited, mut errors) = (0, Vec::new());
        for Told { id, asked_at, eta } in told {
            let id: foreman_store::JobId = id.parse()?;
            let began = format!("SELECT loading_at FROM job_done WHERE job_id = '{}'", id.uuid());
            let began: DateTime<Utc> = db.value(&began).await;
            let wait = (began - asked_at).as_seconds_f64();
            if wait < MIN_WAIT {
                continue;
            }
            waited += 1;
            if let Some(eta) = eta {
                let told = (eta - asked_at).as_seconds_f64();
                errors.push(((told - wait).abs() / wait, told / wait));
            }
        }
        Ok((waited, errors))
    }
}
