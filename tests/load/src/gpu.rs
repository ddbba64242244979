//! Who gets the GPU, how often it loads and how long it idles: the same work straight at a simulated Ollama, as clients
//! send it today, and through Foreman in front of such an Ollama. Times are a hundredth of those of real models.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use foreman_store::JobRequest;
use foreman_tests::{Cluster, Db};
use ollama_sim::{Log, Sim};
use rand::RngExt as _;
use rand::rngs::StdRng;
use tokio::runtime;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::Scale;
use crate::measure::{median, millis, quantile};
use crate::mixed::{
    CLIENTS, Planned, between_arrivals, clients, context_of, ended_after, ollama, request_for, request_of,
    seeded, send_straight, submit,
};
use crate::programs::Programs;
use crate::services::{Api, Worker, all_are_done, http_client, models_are_known};

const MODELS: usize = 5;
/// Loads of real models take 5 to 20 s.
const LOADS: [u64; MODELS] = [50, 80, 120, 160, 200];
/// Runs of real jobs take 0.2 to 5 s.
const RUNS: std::ops::Range<u64> = 2..50;
/// The default of `FOREMAN_LOAD_SHARE`.
const LOAD_SHARE: f64 = 0.1;

pub(crate) struct Gpu<'a> {
    cluster: &'a Cluster,
    /// How many jobs a mixed workload has.
    mixed: usize,
    /// How many jobs a long backlog has at most.
    backlog: usize,
}

/// What became of a workload.
struct Seen {
    loads: u64,
    makespan: Duration,
    waits: BTreeMap<usize, Vec<Duration>>,
    /// How evenly the clients have had the GPU in the first half, from 1/clients to 1.
    jain: f64,
}

impl<'a> Gpu<'a> {
    pub(crate) fn new(cluster: &'a Cluster, scale: &Scale) -> Self {
        Self { cluster, mixed: scale.mixed, backlog: scale.flood }
    }

    /// Loads, waits and shares of the mixed workloads.
    pub(crate) async fn mixed(&self, contenders: &[Programs]) -> anyhow::Result<String> {
        let mut table = String::from(
            "\n| mixed workload | models resident | | loads | least loads | makespan | of direct | Jain \
             | waits of Home Assistant: p50, p95, longest | of LlamaIndex | of aider | of Open WebUI |\n\
             |---|---:|---|---:|---:|---:|---:|---:|---|---|---|---|\n",
        );
        for (name, workload) in self.workloads() {
            for resident in [1, 2] {
                let direct = direct(&workload, resident).await.context("straight")?;
                let is_known = resident == 1 && workload.iter().all(|job| job.at == Duration::ZERO);
                let least = if is_known { least_loads(&workload).to_string() } else { String::new() };
                line(&mut table, name, resident, "direct", &direct, "", &direct)?;
                for programs in contenders {
                    let ours = self.through(programs, &workload, resident).await;
                    let ours = ours.with_context(|| programs.to_string())?;
                    line(&mut table, name, resident, &programs.to_string(), &ours, &least, &direct)?;
                }
            }
        }
        Ok(table)
    }

    /// The median share of the time in which the GPU has a job, in turns.
    pub(crate) async fn idle(&self, contenders: &[Programs], repeats: u8) -> anyhow::Result<String> {
        let mut table = String::from(
            "\n| one slot, a long backlog | a job | direct busy | Foreman busy | aim |\n|---|---:|---:|---:|---:|\n",
        );
        for (run, aim) in [(50, 0.98), (20, 0.97), (5, 0.85)] {
            let jobs = usize::try_from(10_000 / (run + 5)).unwrap_or(usize::MAX).min(self.backlog);
            let (mut direct, mut ours) = (Vec::new(), vec![Vec::new(); contenders.len()]);
            for _ in 0..repeats {
                direct.push(busy_direct(run, jobs).await?);
                for (programs, ours) in contenders.iter().zip(&mut ours) {
                    ours.push(self.busy(programs, run, jobs).await?);
                }
            }
            let direct = median(direct).unwrap_or_default();
            for (programs, ours) in contenders.iter().zip(ours) {
                writeln!(
                    table,
                    "| {programs} | {run} ms | {direct:.3} | {:.3} | {aim} |",
                    median(ours).unwrap_or_default()
                )?;
            }
        }
        Ok(table)
    }

    fn workloads(&self) -> [(&'static str, Vec<Planned>); 3] {
        let mut random = seeded();
        let run = |random: &mut StdRng| random.random_range(RUNS);
        let alternating = (0..self.mixed)
            .map(|nth| Planned {
                at: Duration::ZERO,
                client: nth % CLIENTS,
                model: nth % MODELS,
                context: None,
                run: run(&mut random),
            })
            .collect();
        let mut at = Duration::ZERO;
        let poisson = (0..self.mixed)
            .map(|_| {
                // Half of what the GPU could run without loads.
                at += between_arrivals(&mut random, 0.05);
                Planned {
                    at,
                    client: random.random_range(0..CLIENTS),
                    model: random.random_range(0..MODELS),
                    context: None,
                    run: run(&mut random),
                }
            })
            .collect();
        let bursts = (0..self.mixed)
            .map(|nth| Planned {
                at: Duration::from_secs((nth / 40) as u64 * 2),
                client: nth / 10 % CLIENTS,
                model: random.random_range(0..MODELS),
                context: None,
                run: run(&mut random),
            })
            .collect();
        let named = |workload: Vec<Planned>| {
            let mut random = seeded();
            let named = |job: Planned| Planned { context: context_of(job.client, &mut random), ..job };
            workload.into_iter().map(named).collect()
        };
        [("alternating", named(alternating)), ("Poisson", named(poisson)), ("bursts", named(bursts))]
    }

    async fn through(
        &self,
        programs: &Programs,
        workload: &[Planned],
        resident: usize,
    ) -> anyhow::Result<Seen> {
        let (sim, db) = (ollama(resident, &LOADS).await?, Db::on(self.cluster).await);
        let api = Api::with_keys(programs, &db).await;
        let worker = Worker::with_models(programs, &db, &sim.url(), 1, resident);
        models_are_known(&db).await;
        let loads_before = run_each_model_once(&api, &db, &sim).await?;
        let (keys, began) = (clients(&db).await, Instant::now());
        submit(&api, &keys, workload, began).await?;
        all_are_done(&db, MODELS + workload.len()).await;
        let makespan = ended_after(std::slice::from_ref(&sim), began);
        worker.has_no_complaints()?;
        let mut waits: BTreeMap<usize, Vec<Duration>> = BTreeMap::new();
        let rows: Vec<String> = db
            .values(
                "SELECT c.name || ' ' || (extract(epoch FROM d.completed_at - j.created_at) * 1000)::bigint
                 FROM job_done d JOIN job j ON j.id = d.job_id JOIN client c ON c.id = j.client_id
                 WHERE c.name <> 'first'",
            )
            .await;
        for row in rows {
            let (client, wait) = row.split_once(' ').context("a row has two words")?;
            waits.entry(client.parse()?).or_default().push(Duration::from_millis(wait.parse()?));
        }
        let log = sim.log();
        Ok(Seen { loads: log.loads - loads_before, makespan, waits, jain: jain(&log) })
    }

    /// The share of the time in which the GPU had a job, from the first job to the last.
    async fn busy(&self, programs: &Programs, run: u64, jobs: usize) -> anyhow::Result<f64> {
        let (sim, db) = (ollama(1, &LOADS).await?, Db::on(self.cluster).await);
        let job = |number| db.job(JobRequest { body: request_for(0, number, run), ..request(&db) });
        db.accept_all(&(0..jobs).map(job).collect::<Vec<_>>()).await;
        let worker = Worker::start(programs, &db, &sim.url(), 1);
        // No question to Postgres takes a processor from what is measured.
        sleep(Duration::from_millis(run * jobs as u64)).await;
        all_are_done(&db, jobs).await;
        worker.has_no_complaints()?;
        Ok(busy_share(&sim.log()))
    }
}

/// A job without a context for each model, so that Foreman knows the automatic contexts, as it does in an installation that has
/// been in use. Returns how many loads that took. The last one does not count: its model may be needed at first.
async fn run_each_model_once(api: &Api, db: &Db, sim: &Sim) -> anyhow::Result<u64> {
    let keys = [db.new_client("first", false).await.key];
    for model in 0..MODELS {
        let job = Planned { at: Duration::ZERO, client: 0, model, context: None, run: 0 };
        submit(api, &keys, &[job], Instant::now()).await?;
        all_are_done(db, model + 1).await;
    }
    Ok(sim.log().loads - 1)
}

async fn direct(workload: &[Planned], resident: usize) -> anyhow::Result<Seen> {
    let (sims, began) = ([ollama(resident, &LOADS).await?], Instant::now());
    let mut waits: BTreeMap<usize, Vec<Duration>> = BTreeMap::new();
    for (client, wait) in send_straight(&sims, workload, began).await? {
        waits.entry(client).or_default().push(wait);
    }
    let (log, makespan) = (sims[0].log(), ended_after(&sims, began));
    Ok(Seen { loads: log.loads, makespan, waits, jain: jain(&log) })
}

/// One request after the other, as a client without a queue would send them. Client and Ollama do not share a thread, as two
/// processes do not: otherwise none of the two would ever have to be woken.
async fn busy_direct(run: u64, jobs: usize) -> anyhow::Result<f64> {
    let sim = ollama(1, &LOADS).await?;
    let url = format!("{}/api/generate", sim.url());
    let client = async move {
        let http = http_client()?;
        for number in 0..jobs {
            let asked = http.post(&url).body(request_for(0, number, run));
            asked.send().await?.error_for_status()?.bytes().await?;
        }
        anyhow::Ok(())
    };
    spawn_blocking(|| runtime::Builder::new_current_thread().enable_all().build()?.block_on(client))
        .await??;
    Ok(busy_share(&sim.log()))
}

fn request(db: &Db) -> JobRequest {
    JobRequest {
        model_label: "model-0:latest".to_owned(),
        load_key: "model-0:latest num_ctx=any".to_owned(),
        path: "/api/generate".to_owned(),
        ..db.request()
    }
}

fn busy_share(log: &Log) -> f64 {
    let first = log.runs().iter().filter_map(|run| run.started).min().unwrap_or_default();
    let last = log.runs().iter().filter_map(|run| run.ended).max().unwrap_or_default();
    log.busy.as_secs_f64() / (last - first).as_secs_f64()
}

/// Jain's index of the GPU time that the clients have had in the first half of all runs.
fn jain(log: &Log) -> f64 {
    let runs = log.runs();
    let mut had: BTreeMap<usize, f64> = BTreeMap::new();
    for run in &runs[..runs.len() / 2] {
        let Some((client, _)) = request_of(run) else { continue };
        let took = run.ended.unwrap_or_default().saturating_sub(run.started.unwrap_or_default());
        *had.entry(client).or_default() += took.as_secs_f64();
    }
    let (sum, squares) =
        had.values().fold((0.0, 0.0), |(sum, squares), had| (sum + had, squares + had * had));
    if squares == 0.0 { 0.0 } else { sum * sum / (had.len() as f64 * squares) }
}

/// The fewest loads with which jobs that all wait at once can run where one model is resident: a model keeps its turn for its
/// quantum while others wait, so that loading takes its share of the time and no more.
fn least_loads(workload: &[Planned]) -> u64 {
    let turns = |model: usize| {
        let work: u64 = workload.iter().filter(|job| job.model == model).map(|job| job.run).sum();
        let quantum = LOADS[model] as f64 * (1.0 - LOAD_SHARE) / LOAD_SHARE;
        (work as f64 / quantum).ceil()
    };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small whole number")]
    let turns = (0..MODELS).map(turns).sum::<f64>() as u64;
    turns
}

fn line(
    tables: &mut String,
    name: &str,
    resident: usize,
    whose: &str,
    seen: &Seen,
    least_loads: &str,
    direct: &Seen,
) -> anyhow::Result<()> {
    let of_direct = seen.makespan.as_secs_f64() / direct.makespan.as_secs_f64();
    let waits = |client| {
        let mut waits = seen.waits.get(&client).cloned().unwrap_or_default();
        let mut at = |part| millis(quantile(&mut waits, part));
        format!("{}, {}, {}", at(0.5), at(0.95), at(1.0))
    };
    writeln!(
        tables,
        "| {name} | {resident} | {whose} | {} | {least_loads} | {:.2} s | {of_direct:.2} | {:.3} | {} |",
        seen.loads,
        seen.makespan.as_secs_f64(),
        seen.jain,
        (0..CLIENTS).map(waits).collect::<Vec<_>>().join(" | "),
    )?;
    Ok(())
}
