//! Work of several clients for several models, and the simulated Ollamas that run it: each request goes straight to one of
//! them, or as a job through an api.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use foreman_tests::Db;
use futures_util::future::try_join_all;
use ollama_sim::{Config, Model, Record, Sim};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio::time::sleep_until;

use crate::services::{Api, http_client};

/// How many clients send work: Home Assistant, LlamaIndex, aider and Open WebUI.
pub(crate) const CLIENTS: usize = 4;
/// The longest context of each model.
const LONGEST_CONTEXT: i64 = 32_768;
/// The workloads are drawn from this seed.
const SEED: u64 = 7;

/// A request of a mixed workload. Its number is its place in the workload.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Planned {
    pub(crate) at: Duration,
    pub(crate) client: usize,
    pub(crate) model: usize,
    /// The context that it names.
    pub(crate) context: Option<u32>,
    /// How many milliseconds it runs.
    pub(crate) run: u64,
}

/// What all random workloads are drawn from.
pub(crate) fn seeded() -> StdRng {
    StdRng::seed_from_u64(SEED)
}

/// The context that a client names in a request. Home Assistant and LlamaIndex name the same each time, aider one that
/// follows from the length of its prompt, and Open WebUI none.
pub(crate) fn context_of(client: usize, random: &mut StdRng) -> Option<u32> {
    match client {
        0 => Some(8_192),
        1 => Some(3_900),
        2 => Some(8_192 + random.random_range(0..8_192)),
        _ => None,
    }
}

/// The time between two arrivals of a Poisson stream, so many seconds on average.
pub(crate) fn between_arrivals(random: &mut StdRng, average: f64) -> Duration {
    Duration::from_secs_f64(-random.random::<f64>().max(1e-9).ln() * average)
}

/// An Ollama with models `model-0`, `model-1` and so on, each of which takes so many milliseconds to load.
pub(crate) async fn ollama(resident: usize, loads: &[u64]) -> anyhow::Result<Sim> {
    let names: Vec<String> = (0..loads.len()).map(|model| format!("model-{model}")).collect();
    let model = |name: &String| Model { context_length: LONGEST_CONTEXT, ..Model::new(name) };
    let models = names.iter().map(model).collect();
    let mut config = Config { models, max_loaded: resident, max_queue: 100_000, ..Config::default() };
    for (name, load) in names.iter().zip(loads) {
        config = config.slow_load(name, Duration::from_millis(*load));
    }
    Sim::start(config).await.context("the simulator cannot listen")
}

/// The keys of the clients.
pub(crate) async fn clients(db: &Db) -> Vec<String> {
    let mut keys = Vec::new();
    for client in 0..CLIENTS {
        keys.push(db.new_client(&client.to_string(), false).await.key);
    }
    keys
}

/// Submits each request as a job at its time. Returns when all are accepted.
pub(crate) async fn submit(
    api: &Api,
    keys: &[String],
    workload: &[Planned],
    began: Instant,
) -> anyhow::Result<()> {
    let http = http_client()?;
    let submit = async |(number, job): (usize, &Planned)| {
        sleep_until((began + job.at).into()).await;
        let asked = http.post(format!("http://{}/jobs", api.address)).bearer_auth(&keys[job.client]);
        let answer = asked.body(body(number, job, true)).send().await?;
        ensure!(answer.status() == 202, "{}", answer.text().await?);
        Ok(())
    };
    try_join_all(workload.iter().enumerate().map(submit)).await?;
    Ok(())
}

/// Sends each request at its time to one of these Ollamas in turn, as a balancer does that knows nothing of models. Returns the
/// client of each and how long it waited for the end of its answer.
pub(crate) async fn send_straight(
    sims: &[Sim],
    workload: &[Planned],
    began: Instant,
) -> anyhow::Result<Vec<(usize, Duration)>> {
    let http = http_client()?;
    let ask = async |(number, job): (usize, &Planned)| {
        sleep_until((began + job.at).into()).await;
        let url = format!("{}/api/generate", sims[number % sims.len()].url());
        let answer = http.post(url).body(body(number, job, false)).send().await?;
        ensure!(answer.status() == 200, "{}", answer.text().await?);
        answer.bytes().await?;
        anyhow::Ok((job.client, began.elapsed().saturating_sub(job.at)))
    };
    try_join_all(workload.iter().enumerate().map(ask)).await
}

/// How long after this moment the last run at these Ollamas ended.
pub(crate) fn ended_after(sims: &[Sim], began: Instant) -> Duration {
    let last = |sim: &Sim| {
        let last = sim.look(|log| log.records.iter().filter_map(|record| record.ended).max());
        sim.began() + last.unwrap_or_default()
    };
    sims.iter().map(last).max().unwrap_or(began).saturating_duration_since(began)
}

fn body(number: usize, job: &Planned, is_job: bool) -> String {
    let (model, prompt) = (format!("model-{}", job.model), prompt(job.client, number, job.run));
    let mut body = json!({"model": model, "prompt": prompt});
    if let Some(context) = job.context {
        body["options"] = json!({"num_ctx": context});
    }
    if !is_job {
        body["stream"] = true.into();
    }
    body.to_string()
}

/// A streamed request of the first client, for a model, that runs for so many milliseconds.
pub(crate) fn request_for(model: usize, number: usize, run: u64) -> String {
    json!({"model": format!("model-{model}"), "prompt": prompt(0, number, run), "stream": true}).to_string()
}

/// The prompt of a request that runs for so many milliseconds.
fn prompt(client: usize, number: usize, run: u64) -> String {
    format!("{client} {number} sim:tokens=1 sim:prompt-delay={run}ms")
}

/// The client and the number of the request that this run is of.
pub(crate) fn request_of(run: &Record) -> Option<(usize, usize)> {
    request_in(&run.body)
}

/// The client and the number of the request that has this body.
pub(crate) fn request_in(body: &[u8]) -> Option<(usize, usize)> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let mut words = body["prompt"].as_str()?.split(' ').map(str::parse);
    Some((words.next()?.ok()?, words.next()?.ok()?))
}
