//! How much later a caller of `/api/chat` gets its tokens through Foreman than straight from the same Ollama: the first one,
//! each further one, and the last.
//!
//! Both contenders are asked in turns, within the same seconds, so that other load on the machine affects both alike.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use foreman_tests::{Cluster, Db};
use futures_util::future::try_join_all;
use futures_util::{StreamExt as _, stream};
use tokio::time::sleep;

use crate::measure::median_and_slow;
use crate::programs::Programs;
use crate::services::{Api, Worker, http_client, models_are_known};
use crate::{Scale, backend, server, workload};

/// Requests per second.
const RATES: [u32; 2] = [1, 50];

/// A stream of this many tokens, one every [`TOKEN_EVERY`].
const TOKENS: usize = 10;
const TOKEN_EVERY: Duration = Duration::from_millis(10);

/// No request waits for a slot.
const SLOTS: usize = 64;

/// Requests that are not measured. They load the model, make the connections and plan the statements.
const WARM_UP: usize = 20;

pub(crate) struct Calls<'a> {
    cluster: &'a Cluster,
    ollama: String,
    length: Duration,
}

/// What one caller measured.
#[derive(Debug)]
struct Heard {
    first: Duration,
    /// The waits between two tokens.
    gaps: Vec<Duration>,
    total: Duration,
}

impl<'a> Calls<'a> {
    pub(crate) fn start(cluster: &'a Cluster, scale: &Scale) -> anyhow::Result<Self> {
        let ollama = server::serve(1, |_, request| {
            backend::answer(request, |_| {
                let [first, .., last] = backend::LINES;
                let tokens = std::iter::repeat_n(first, TOKENS - 1).chain([last]);
                let lines = stream::iter(tokens).then(|line| async move {
                    sleep(TOKEN_EVERY).await;
                    line
                });
                backend::streamed(lines)
            })
        })?;
        Ok(Self { cluster, ollama: format!("http://{}", ollama[0]), length: scale.calls_for })
    }

    /// Measures every contender at every rate in turns, and returns the table.
    pub(crate) async fn measure(&self, contenders: &[Programs], turns: u8) -> anyhow::Result<String> {
        let mut table = String::from(
            "\n| calls/s | contender | calls | first token | between tokens | last token |\n\
             |---:|---|---:|---:|---:|---:|\n",
        );
        for rate in RATES {
            let mut direct = Vec::new();
            let mut ours: Vec<Vec<Heard>> = contenders.iter().map(|_| Vec::new()).collect();
            for _ in 0..turns {
                for (programs, heard) in contenders.iter().zip(&mut ours) {
                    let (straight, through) = self
                        .turn(programs, rate)
                        .await
                        .with_context(|| format!("{programs} at {rate} a second"))?;
                    direct.extend(straight);
                    heard.extend(through);
                }
            }
            writeln!(table, "| {rate} | direct | {}", columns(&direct))?;
            for (programs, heard) in contenders.iter().zip(&ours) {
                writeln!(table, "| {rate} | {programs} | {}", columns(heard))?;
            }
        }
        Ok(table)
    }

    /// What callers heard of Ollama, and of Foreman before it.
    async fn turn(&self, programs: &Programs, rate: u32) -> anyhow::Result<(Vec<Heard>, Vec<Heard>)> {
        let db = Db::on(self.cluster).await;
        let worker = Worker::start(programs, &db, &self.ollama, SLOTS);
        let api = Api::start(programs, &db).await;
        models_are_known(&db).await;
        let client = http_client()?;
        let urls = [format!("{}/api/chat", self.ollama), format!("http://{}/api/chat", api.address)];
        for url in &urls {
            for _ in 0..WARM_UP {
                call(client.clone(), url.clone()).await?;
            }
        }
        let count = usize::try_from(rate)? * usize::try_from(self.length.as_secs())?;
        let pause = Duration::from_secs(1) / rate;
        let mut heard = urls.iter().map(|_| Vec::new()).collect::<Vec<_>>();
        for number in 0..count {
            for (url, heard) in urls.iter().zip(&mut heard) {
                heard.push(tokio::spawn(call(client.clone(), url.clone())));
                // Not quite evenly, so that no loop of a service keeps in step with us.
                sleep(pause.mul_f64(if number % 2 == 0 { 0.35 } else { 0.65 })).await;
            }
        }
        let mut results = Vec::new();
        for heard in heard {
            results.push(try_join_all(heard).await?.into_iter().collect::<anyhow::Result<Vec<_>>>()?);
        }
        worker.has_no_complaints()?;
        let through = results.pop().context("two were asked")?;
        Ok((results.pop().context("two were asked")?, through))
    }
}

async fn call(client: reqwest::Client, url: String) -> anyhow::Result<Heard> {
    let began = Instant::now();
    let answer = client.post(url).body(workload::ollama_body()).send().await?.error_for_status()?;
    let (mut chunks, mut moments) = (answer.bytes_stream(), Vec::new());
    while let Some(chunk) = chunks.next().await {
        let tokens = chunk?.iter().filter(|byte| **byte == b'\n').count();
        moments.extend(std::iter::repeat_n(Instant::now(), tokens));
    }
    let total = began.elapsed();
    ensure!(moments.len() == TOKENS, "{} tokens came", moments.len());
    let gaps = moments.windows(2).map(|pair| pair[1].duration_since(pair[0])).collect();
    Ok(Heard { first: moments[0].duration_since(began), gaps, total })
}

fn columns(heard: &[Heard]) -> String {
    let mut columns = format!("{} |", heard.len());
    let firsts = heard.iter().map(|one| one.first).collect();
    let gaps = heard.iter().flat_map(|one| one.gaps.iter().copied()).collect();
    let totals = heard.iter().map(|one| one.total).collect();
    for figures in [firsts, gaps, totals] {
        // Writing to a String cannot fail.
        let _ = write!(columns, " {} |", median_and_slow(figures));
    }
    columns
}
