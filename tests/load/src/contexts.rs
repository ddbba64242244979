//! How often a model is loaded when its clients name different contexts: straight at an Ollama, as they do without Foreman, and
//! through Foreman. Half of the requests are calls, the others are jobs. All of them wait at the same time, and once the
//! first one that names no context comes before them.
//!
//! Every answer through Foreman must be the one that Ollama gives straight.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use foreman_tests::{Cluster, Db};
use futures_util::future::try_join_all;
use ollama_sim::{Config, Model, Sim};
use serde_json::{Value, json};

use crate::measure::{median_and_slow, millis};
use crate::programs::Programs;
use crate::services::{Api, Worker, http_client, models_are_known};
use crate::{Scale, workload};

/// How many different contexts are named, from [`SHORTEST`] to [`LONGEST`].
const LENGTHS: usize = 40;
const SHORTEST: usize = 512;
const LONGEST: usize = 8_192;

/// Every so many requests one names no context.
const NAMES_NONE: usize = 5;

/// A load takes five times as long as a request: long enough to matter, and a tenth of what a small model needs for real.
const LOAD: Duration = Duration::from_millis(250);
const TOKEN_EVERY: Duration = Duration::from_millis(5);
const TOKENS: usize = 10;

/// The first request that names none.
const FIRST_WITHOUT: usize = NAMES_NONE - 1;

/// One request at a time, as Ollama has it by default.
const SLOTS: usize = 1;

/// The longest wait that `GET /jobs/{id}` grants.
const WAIT: &str = "?wait=60";

pub(crate) struct Contexts<'a> {
    cluster: &'a Cluster,
    requests: usize,
}

/// A request of one client.
#[derive(Debug, Clone, Copy)]
struct Request {
    number: usize,
}

/// What became of all requests.
struct Seen {
    loads: u64,
    took: Duration,
    /// How long each call took.
    calls: Vec<Duration>,
    /// By number.
    answers: Vec<Value>,
}

impl Request {
    /// Whether its caller waits on the connection. The others are jobs, if there is a Foreman.
    fn is_call(self) -> bool {
        self.number.is_multiple_of(2)
    }

    fn is_chat(self) -> bool {
        (self.number / 2).is_multiple_of(2)
    }

    /// No two neighbours name the same length, and each length is named equally often.
    fn length(self) -> Option<usize> {
        let names_none = self.number % NAMES_NONE == NAMES_NONE - 1;
        // 11 has no factor in common with the number of lengths, so this goes through all of them.
        let nth = (self.number - self.number / NAMES_NONE) * 11 % LENGTHS;
        (!names_none).then(|| SHORTEST + nth * (LONGEST - SHORTEST) / (LENGTHS - 1))
    }

    fn path(self) -> &'static str {
        if self.is_chat() { "/api/chat" } else { "/api/generate" }
    }

    /// The body of the request, at Ollama and as a job. The prompt has the model say the number.
    fn body(self) -> String {
        let prompt = format!("{} sim:tokens={TOKENS}", self.number);
        let mut body = json!({"model": workload::MODEL, "stream": false, "options": {"seed": self.number}});
        if self.is_chat() {
            body["messages"] = json!([{"role": "user", "content": prompt}]);
        } else {
            body["prompt"] = prompt.into();
        }
        if let Some(length) = self.length() {
            body["options"]["num_ctx"] = length.into();
        }
        body.to_string()
    }
}

impl<'a> Contexts<'a> {
    pub(crate) fn new(cluster: &'a Cluster, scale: &Scale) -> Self {
        Self { cluster, requests: scale.contexts }
    }

    /// Sends the requests straight to an Ollama, then through each contender, and returns the table.
    pub(crate) async fn measure(&self, contenders: &[Programs]) -> anyhow::Result<String> {
        let mut table = String::from(
            "\n| contexts | at first | requests | loads | all answered after | a call: p50, p99 |\n\
             |---|---|---:|---:|---:|---:|\n",
        );
        for first in [Some(FIRST_WITHOUT), None] {
            let direct = self.direct(first).await.context("straight")?;
            line(&mut table, "direct", first, &direct);
            for programs in contenders {
                let ours = self.through(programs, first).await.with_context(|| programs.to_string())?;
                for (number, (ours, direct)) in ours.answers.iter().zip(&direct.answers).enumerate() {
                    ensure!(
                        words(ours) == words(direct),
                        "request {number} was answered {ours}, and straight {direct}"
                    );
                }
                line(&mut table, &programs.to_string(), first, &ours);
            }
        }
        Ok(table)
    }

    async fn direct(&self, first: Option<usize>) -> anyhow::Result<Seen> {
        let sim = ollama().await?;
        let client = http_client()?;
        self.seen(&sim, first, |request| call(client.clone(), sim.url(), request)).await
    }

    async fn through(&self, programs: &Programs, first: Option<usize>) -> anyhow::Result<Seen> {
        let (sim, db) = (ollama().await?, Db::on(self.cluster).await);
        let worker = Worker::start(programs, &db, &sim.url(), SLOTS);
        let api = Api::start(programs, &db).await;
        models_are_known(&db).await;
        let (client, url) = (http_client()?, format!("http://{}", api.address));
        let ask = async |request: Request| {
            if request.is_call() {
                call(client.clone(), url.clone(), request).await
            } else {
                job(client.clone(), url.clone(), request).await
            }
        };
        let seen = self.seen(&sim, first, ask).await?;
        worker.has_no_complaints()?;
        Ok(seen)
    }

    /// Makes all requests at the same time, when `first` has been answered.
    async fn seen(
        &self,
        sim: &Sim,
        first: Option<usize>,
        ask: impl AsyncFn(Request) -> anyhow::Result<Value>,
    ) -> anyhow::Result<Seen> {
        let began = Instant::now();
        let timed = async |number| {
            let request = Request { number };
            let answer = ask(request).await.with_context(|| format!("request {number}"))?;
            anyhow::Ok((request, answer, began.elapsed()))
        };
        let before = try_join_all(first.map(timed)).await?;
        let others = (0..self.requests).filter(|number| Some(*number) != first);
        let mut all = try_join_all(others.map(timed)).await?;
        all.extend(before);
        all.sort_by_key(|(request, ..)| request.number);
        let took = began.elapsed();
        let calls = all.iter().filter(|(request, ..)| request.is_call()).map(|(.., took)| *took).collect();
        let answers = all.into_iter().map(|(_, answer, _)| answer).collect();
        Ok(Seen { loads: sim.look(|log| log.loads), took, calls, answers })
    }
}

async fn ollama() -> anyhow::Result<Sim> {
    let mut model = Model::new(workload::MODEL);
    model.context_length = 32_768;
    let config = Config {
        models: vec![model],
        load_delay: LOAD,
        token_delay: TOKEN_EVERY,
        parallel: SLOTS,
        ..Config::default()
    };
    Sim::start(config).await.context("the simulator cannot listen")
}

async fn call(client: reqwest::Client, url: String, request: Request) -> anyhow::Result<Value> {
    let asked = client.post(format!("{url}{}", request.path())).body(request.body());
    read(asked).await
}

/// Submits a job and waits for its end. Returns the answer that Ollama gave.
async fn job(client: reqwest::Client, url: String, request: Request) -> anyhow::Result<Value> {
    let submitted = read(client.post(format!("{url}/jobs")).body(request.body())).await?;
    let id = submitted["job_id"].as_str().context("a job without an id")?;
    loop {
        let mut job = read(client.get(format!("{url}/jobs/{id}{WAIT}"))).await?;
        match job["state"].as_str() {
            Some("done") => return Ok(job["result"].take()),
            Some("queued" | "loading" | "working") => {}
            _ => anyhow::bail!("the job ended as {job}"),
        }
    }
}

async fn read(request: reqwest::RequestBuilder) -> anyhow::Result<Value> {
    let answer = request.send().await?;
    let status = answer.status();
    let body = answer.bytes().await?;
    ensure!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&body));
    Ok(serde_json::from_slice(&body)?)
}

/// What an answer says, without the times.
fn words(answer: &Value) -> [&Value; 5] {
    ["message", "response", "done_reason", "prompt_eval_count", "eval_count"].map(|key| &answer[key])
}

fn line(table: &mut String, contender: &str, first: Option<usize>, seen: &Seen) {
    let first = first.map_or("all", |_| "one without a context");
    let (loads, requests) = (seen.loads, seen.answers.len());
    let (took, calls) = (millis(seen.took), median_and_slow(seen.calls.clone()));
    // Writing to a String cannot fail.
    _ = writeln!(table, "| {contender} | {first} | {requests} | {loads} | {took} | {calls} |");
}
