//! How fast Foreman is, as a ratio. Each scenario is measured beside a baseline, which does the least work that the
//! task needs, on the same machine, in the same run, in turns. Durability is as in production, because without it the
//! figures would mean nothing.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use foreman_tests::Cluster;

mod accept;
mod backend;
mod bad_receivers;
mod calls;
mod claims;
mod connection;
mod contexts;
mod cpu;
mod deliver;
mod eta;
mod flood;
mod gpu;
mod hosts;
mod isolation;
mod measure;
mod mixed;
mod pgbench;
mod programs;
mod quiet;
mod run;
mod server;
mod services;
mod shares;
mod statements;
mod workload;

use accept::Accept;
use calls::Calls;
use claims::Claims;
use contexts::Contexts;
use deliver::Deliver;
use eta::Eta;
use flood::Flood;
use gpu::Gpu;
use hosts::Hosts;
use isolation::Isolation;
use measure::{Row, Sample, Scenario};
use programs::Programs;
use quiet::Quiet;
use run::Run;
use shares::Shares;
use statements::Statements;

/// Measures Foreman against baselines on this machine and prints a table in Markdown.
#[derive(Debug, Parser)]
#[command(after_help = "For example: foreman-load --scenario run --repeats 3")]
struct Options {
    /// What to measure; everything if none is named.
    #[arg(long, value_enum)]
    scenario: Vec<Name>,
    /// Turns of each contender; the figures are medians over them.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=20))]
    repeats: u8,
    /// A tenth of the work: to see that everything runs, not how fast.
    #[arg(long)]
    quick: bool,
    /// A directory with the foreman-api and foreman-worker to measure; several are measured turn by turn. If none is
    /// named, they are built from this tree.
    #[arg(long, value_name = "DIR")]
    programs: Vec<PathBuf>,
    /// Also show, after each turn of Foreman, what its statements cost Postgres; this costs a little itself.
    #[arg(long)]
    statements: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Name {
    /// `POST /jobs` until the 202, against pgbench.
    Accept,
    /// A backlog of jobs on an instant Ollama, against a bare loop of the same requests.
    Run,
    /// A backlog of webhooks, against a bare loop that signs and sends.
    Deliver,
    /// Single jobs on an idle system: how long each step takes, beside a direct request.
    Quiet,
    /// Sync calls, beside the same calls straight at Ollama: the first token, the gaps, the last.
    Calls,
    /// Single requests of one client, alone and then beside another client that takes everything it can get.
    Shares,
    /// Requests that name different contexts, straight at an Ollama and through Foreman: how often it loads.
    Contexts,
    /// Work of several models and clients, straight at an Ollama and through Foreman: loads, waits and shares.
    Gpu,
    /// A backlog on one slot, straight at an Ollama and through Foreman: for how much of the time the GPU works.
    Idle,
    /// A job a second, alone and then beside another client or user who has queued thousands.
    Flood,
    /// Work of four models for two hosts, beside one host and a balancer; and one of the two is killed.
    Hosts,
    /// Jobs that come at random and ask when they begin: how well that holds.
    Eta,
    /// A worker beside a short and a long queue of many clients and users: what a claim costs Postgres.
    Claims,
    /// Webhooks to healthy receivers, alone and then beside receivers that hang or drip.
    Isolation,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    foreman_runtime::tls::install();
    let named: Result<Vec<Programs>, _> = options.programs.iter().map(|dir| Programs::in_dir(dir)).collect();
    let mut contenders = named.context("--programs")?;
    if contenders.is_empty() {
        contenders.push(Programs::of_this_tree());
    }
    let cluster = if options.statements { statements::cluster().await } else { Cluster::durable().await };
    let statements = if options.statements { Some(Statements::of(&cluster).await) } else { None };
    let scale = if options.quick { Scale::quick() } else { Scale::full() };
    let mut rows = Vec::new();
    for name in Name::value_variants() {
        if !options.scenario.is_empty() && !options.scenario.contains(name) {
            continue;
        }
        let (contenders, repeats, statements) = (&contenders[..], options.repeats, statements.as_ref());
        let result = match name {
            Name::Accept => turns(&Accept::new(&cluster, &scale), contenders, repeats, statements).await,
            Name::Run => turns(&Run::start(&cluster, &scale)?, contenders, repeats, statements).await,
            Name::Deliver => turns(&Deliver::start(&cluster, &scale)?, contenders, repeats, statements).await,
            other => {
                say(&report(*other, &cluster, &scale, contenders, repeats).await?);
                continue;
            }
        };
        rows.extend(result?);
    }
    if !rows.is_empty() {
        say(&measure::table(&rows));
    }
    Ok(())
}

/// Measures a scenario that has tables of its own.
async fn report(
    name: Name,
    cluster: &Cluster,
    scale: &Scale,
    contenders: &[Programs],
    repeats: u8,
) -> anyhow::Result<String> {
    let gpu = Gpu::new(cluster, scale);
    match name {
        Name::Quiet => Quiet::start(cluster, scale)?.measure(contenders, repeats).await,
        Name::Calls => Calls::start(cluster, scale)?.measure(contenders, repeats).await,
        Name::Shares => Shares::new(cluster, scale).measure(contenders).await,
        Name::Contexts => Contexts::new(cluster, scale).measure(contenders).await,
        Name::Gpu => gpu.mixed(contenders).await,
        Name::Idle => gpu.idle(contenders, repeats).await,
        Name::Hosts => Hosts::new(cluster, scale).measure(contenders, repeats).await,
        Name::Eta => Eta::new(cluster, scale).measure(contenders).await,
        Name::Flood => Flood::new(cluster, scale).measure(contenders).await,
        Name::Claims => Claims::new(cluster, scale).measure(contenders, repeats).await,
        Name::Isolation => Isolation::start(cluster, scale)?.measure(contenders, repeats).await,
        Name::Accept | Name::Run | Name::Deliver => unreachable!("their rows are one table"),
    }
}

/// How much work each turn does.
struct Scale {
    accept_for: Duration,
    jobs: usize,
    deliveries: usize,
    /// How many jobs the greedy client has in its queue.
    queued: usize,
    shares_for: Duration,
    calls_for: Duration,
    /// How many jobs the long queue has that a worker claims from.
    claimed_from: usize,
    isolation_for: Duration,
    /// How many bad receivers one client names.
    crowd: usize,
    /// How many requests name contexts.
    contexts: usize,
    /// How many jobs a mixed workload has.
    mixed: usize,
    /// How many jobs of four models two hosts have, and how long the lease of a host lasts.
    hosts: usize,
    lease_ttl: &'static str,
    /// How many jobs somebody queues who keeps others waiting, and how many single jobs the others send.
    flood: usize,
    single: usize,
    /// One duration per rate.
    quiet_for: [Duration; 3],
}

impl Scale {
    const fn full() -> Self {
        let quiet_for = [Duration::from_secs(20), Duration::from_secs(20), Duration::from_secs(10)];
        Self {
            accept_for: Duration::from_secs(6),
            jobs: 20_000,
            deliveries: 20_000,
            queued: 500_000,
            shares_for: Duration::from_secs(20),
            calls_for: Duration::from_secs(20),
            claimed_from: 1_000_000,
            isolation_for: Duration::from_secs(20),
            crowd: 5_000,
            contexts: 200,
            quiet_for,
            mixed: 400,
            hosts: 120,
            lease_ttl: "20s",
            flood: 20_000,
            single: 40,
        }
    }

    const fn quick() -> Self {
        let quiet_for = [Duration::from_secs(2); 3];
        Self {
            accept_for: Duration::from_secs(1),
            jobs: 2_000,
            deliveries: 2_000,
            queued: 5_000,
            shares_for: Duration::from_secs(3),
            calls_for: Duration::from_secs(3),
            claimed_from: 50_000,
            isolation_for: Duration::from_secs(5),
            crowd: 500,
            contexts: 50,
            quiet_for,
            mixed: 60,
            hosts: 12,
            lease_ttl: "2s",
            flood: 400,
            single: 3,
        }
    }
}

/// Baseline, Foreman, baseline, Foreman, …: other load on the machine then affects both alike.
async fn turns(
    scenario: &impl Scenario,
    contenders: &[Programs],
    repeats: u8,
    statements: Option<&Statements>,
) -> anyhow::Result<Vec<Row>> {
    let mut baseline = Vec::new();
    let mut ours: Vec<Vec<Sample>> = contenders.iter().map(|_| Vec::new()).collect();
    for turn in 1..=repeats {
        let sample = scenario.baseline().await.context("the baseline")?;
        say(&format!("{} {turn}/{repeats}: baseline {sample}", scenario.name()));
        baseline.push(sample);
        for (programs, samples) in contenders.iter().zip(&mut ours) {
            let sample = scenario.foreman(programs).await.with_context(|| programs.to_string())?;
            say(&format!("{} {turn}/{repeats}: {programs} {sample}", scenario.name()));
            if let Some(statements) = statements {
                say(&statements.since_last().await);
            }
            samples.push(sample);
        }
    }
    let rows = contenders.iter().zip(ours).map(|(programs, samples)| {
        Row::new(scenario.name(), scenario.aim(), programs.to_string(), &baseline, &samples)
    });
    Ok(rows.collect())
}

#[expect(clippy::print_stdout, reason = "the figures are what this program is for")]
fn say(text: &str) {
    println!("{text}");
}
