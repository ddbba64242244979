//! How long Foreman takes on an idle system, with single jobs far from any limit. The figures are the hand-overs from
//! one part to the next, so one wait for a poll shows at once.
//!
//! This process reads all moments on one clock: it submits the jobs, and it is also their Ollama and their receiver.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use foreman_tests::{Cluster, Db, within};
use futures_util::future::try_join_all;
use futures_util::{StreamExt as _, stream};
use http_body_util::{BodyExt as _, Empty};
use hyper::Response;
use reqwest::StatusCode;

use crate::measure::median_and_slow;
use crate::programs::Programs;
use crate::services::{Api, Worker, complaints, http_client, models_are_known};
use crate::{Scale, backend, server, workload};

/// Jobs per second. Each has four events.
const RATES: [u32; 3] = [1, 10, 100];

/// How long Ollama takes for a job. Real ones take longer. The shorter this is, the more of a job's first webhooks
/// are still under way when the job ends.
const RUN: Duration = Duration::from_millis(50);

/// Three times as many as the highest rate keeps busy, so that no job waits for a slot.
const SLOTS: usize = 16;

/// Jobs that are not measured. They load the model, make the connections and plan the statements.
const WARM_UP: usize = 20;

/// queued, loading, working, done.
const EVENTS: usize = 4;

/// Longer than any machine needs.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Quiet<'a> {
    cluster: &'a Cluster,
    ollama: String,
    receiver: String,
    jobs: Arc<Mutex<Vec<Moments>>>,
    lengths: [Duration; RATES.len()],
}

/// The moments of one job, or of one direct request.
#[derive(Debug, Clone, Copy, Default)]
struct Moments {
    submitted: Option<Instant>,
    /// The client has read its 202.
    accepted: Option<Instant>,
    /// Ollama has read its request.
    asked: Option<Instant>,
    /// The last line of Ollama's answer was sent.
    answered: Option<Instant>,
    /// The receiver has read the first line of its `done` webhook.
    told: Option<Instant>,
    webhooks: usize,
}

/// One contender at one rate.
#[derive(Debug, Default)]
struct Figures {
    direct: Vec<Duration>,
    accepted: Vec<Duration>,
    asked: Vec<Duration>,
    told: Vec<Duration>,
}

impl<'a> Quiet<'a> {
    pub(crate) fn start(cluster: &'a Cluster, scale: &Scale) -> anyhow::Result<Self> {
        let jobs = Arc::<Mutex<Vec<Moments>>>::default();
        let seen = Arc::clone(&jobs);
        let ollama = server::serve(1, move |_, request| {
            let seen = Arc::clone(&seen);
            backend::answer(request, move |body| {
                let job = number_in(&body);
                note(&seen)[job].asked = Some(Instant::now());
                let lines = stream::iter(backend::LINES).enumerate().then(move |(nth, line)| {
                    let seen = Arc::clone(&seen);
                    async move {
                        if nth + 1 == backend::LINES.len() {
                            tokio::time::sleep(RUN).await;
                            note(&seen)[job].answered = Some(Instant::now());
                        }
                        line
                    }
                });
                backend::streamed(lines)
            })
        })?;
        let seen = Arc::clone(&jobs);
        let receiver = server::serve(1, move |_, request| {
            let (seen, come) = (Arc::clone(&seen), Instant::now());
            async move {
                let number = request.uri().path().trim_start_matches('/').parse();
                let job: usize = number.expect("the path is the number of the job");
                let body = request.into_body().collect().await.expect("the sender sends its body").to_bytes();
                let mut seen = note(&seen);
                seen[job].webhooks += 1;
                if contains(&body, br#""type":"job.done""#) {
                    seen[job].told = Some(come);
                }
                Response::new(Empty::new().boxed())
            }
        })?;
        let (ollama, receiver) = (format!("http://{}", ollama[0]), format!("http://{}", receiver[0]));
        Ok(Self { cluster, ollama, receiver, jobs, lengths: scale.quiet_for })
    }

    /// Measures every contender at every rate in turns, and returns the table.
    pub(crate) async fn measure(&self, contenders: &[Programs], turns: u8) -> anyhow::Result<String> {
        let mut table = String::from(
            "\n| jobs/s | contender | jobs | direct request | submit → 202 | 202 → Ollama | end → `done` |\n\
             |---:|---|---:|---:|---:|---:|---:|\n",
        );
        for (rate, length) in RATES.into_iter().zip(self.lengths) {
            let mut figures: Vec<Figures> = contenders.iter().map(|_| Figures::default()).collect();
            for _ in 0..turns {
                for (programs, figures) in contenders.iter().zip(&mut figures) {
                    self.turn(programs, rate, length, figures)
                        .await
                        .with_context(|| format!("{programs} at {rate} a second"))?;
                }
            }
            for (programs, figures) in contenders.iter().zip(figures) {
                writeln!(table, "| {rate} | {programs} | {}", figures.columns())?;
            }
        }
        Ok(table)
    }

    async fn turn(
        &self,
        programs: &Programs,
        rate: u32,
        length: Duration,
        figures: &mut Figures,
    ) -> anyhow::Result<()> {
        let count = usize::try_from(rate)? * usize::try_from(length.as_secs())?;
        let pause = Duration::from_secs(1) / rate;
        let client = http_client()?;

        let url = format!("{}/api/chat", self.ollama);
        let ask = |job: usize| {
            let request = client.post(&url).body(numbered(&workload::ollama_body(), job));
            async move { anyhow::Ok(request.send().await?.error_for_status()?.bytes().await.map(|_| ())?) }
        };
        self.send(WARM_UP, Duration::ZERO, ask).await?;
        for direct in self.send(count, pause, ask).await? {
            figures.direct.push(between(direct.submitted, direct.asked)?);
        }

        let db = Db::on(self.cluster).await;
        let worker = Worker::start(programs, &db, &self.ollama, SLOTS);
        let api = Api::start(programs, &db).await;
        models_are_known(&db).await;
        let url = format!("http://{}/jobs", api.address);
        let submit = |job: usize| {
            let webhook = format!(r#""state_webhook_url":"{}/{job}","options""#, self.receiver);
            let body = numbered(&workload::request_body(), job).replacen(r#""options""#, &webhook, 1);
            let request = client.post(&url).header("content-type", "application/json").body(body);
            async move {
                let answer = request.send().await?;
                ensure!(
                    answer.status() == StatusCode::ACCEPTED,
                    "{}: {}",
                    answer.status(),
                    answer.text().await?
                );
                answer.bytes().await?;
                Ok(())
            }
        };
        self.send(WARM_UP, Duration::ZERO, submit).await?;
        self.all_are_told(WARM_UP).await;
        self.send(count, pause, submit).await?;
        for job in self.all_are_told(count).await {
            ensure!(job.webhooks == EVENTS, "{} webhooks came of one job", job.webhooks);
            figures.accepted.push(between(job.submitted, job.accepted)?);
            // The request may reach Ollama before the client has read its 202.
            figures.asked.push(between(job.accepted, job.asked.max(job.accepted))?);
            figures.told.push(between(job.answered, job.told)?);
        }
        worker.has_no_complaints()?;
        complaints(&api.process)
    }

    /// Makes this many requests, each at its time, even if earlier ones are still unanswered. When the last has been
    /// answered, returns the moments of all.
    async fn send<F>(
        &self,
        count: usize,
        pause: Duration,
        request: impl Fn(usize) -> F,
    ) -> anyhow::Result<Vec<Moments>>
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        *note(&self.jobs) = vec![Moments::default(); count];
        let mut sent = Vec::with_capacity(count);
        for job in 0..count {
            let (request, jobs) = (request(job), Arc::clone(&self.jobs));
            sent.push(tokio::spawn(async move {
                note(&jobs)[job].submitted = Some(Instant::now());
                request.await?;
                note(&jobs)[job].accepted = Some(Instant::now());
                anyhow::Ok(())
            }));
            // Not quite evenly, so that no loop of a service keeps in step with us.
            tokio::time::sleep(pause.mul_f64(if job % 2 == 0 { 0.7 } else { 1.3 })).await;
        }
        try_join_all(sent).await?.into_iter().collect::<anyhow::Result<()>>()?;
        Ok(note(&self.jobs).clone())
    }

    /// Waits for the last webhook.
    async fn all_are_told(&self, count: usize) -> Vec<Moments> {
        within(PATIENCE, "the last webhook", async || {
            let jobs = note(&self.jobs);
            let come: usize = jobs.iter().map(|job| job.webhooks).sum();
            if come < EVENTS * count { Err(format!("{come} have come")) } else { Ok(jobs.clone()) }
        })
        .await
    }
}

impl Figures {
    fn columns(self) -> String {
        let mut columns = format!("{} |", self.told.len());
        for figures in [self.direct, self.accepted, self.asked, self.told] {
            // Writing to a String cannot fail.
            let _ = write!(columns, " {} |", median_and_slow(figures));
        }
        columns
    }
}

fn note(jobs: &Mutex<Vec<Moments>>) -> MutexGuard<'_, Vec<Moments>> {
    jobs.lock().expect("nobody panics with it")
}

fn between(from: Option<Instant>, to: Option<Instant>) -> anyhow::Result<Duration> {
    let (from, to) = (from.context("a request was not made")?, to.context("a request has not come")?);
    Ok(to.duration_since(from))
}

/// The body with the number of its job at the beginning of the prompt.
fn numbered(body: &str, job: usize) -> String {
    body.replacen(r#""content":""#, &format!(r#""content":"{job} "#), 1)
}

fn number_in(body: &Bytes) -> usize {
    let text = std::str::from_utf8(body).expect("a body is text");
    let (_, prompt) = text.split_once(r#""content":""#).expect("a job has a prompt");
    let number = prompt.split(' ').next().and_then(|number| number.parse().ok());
    number.expect("the prompt begins with the number of its job")
}

fn contains(body: &[u8], part: &[u8]) -> bool {
    body.windows(part.len()).any(|window| window == part)
}
