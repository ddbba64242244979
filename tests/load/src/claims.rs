//! What a claim costs beside a short and a long queue. The jobs are of many models, clients and users, and a worker runs
//! a part of them. Postgres' own log tells how long each claim took there, and each scan.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use foreman_tests::{Cluster, Db};
use ollama_sim::{Config, Sim};
use tokio::time::timeout;

use crate::measure::{median_and_slow, millis, quantile};
use crate::programs::Programs;
use crate::services::Worker;
use crate::{Scale, cpu};

/// How many jobs the short queue has.
const FEW: usize = 1_000;
/// How many jobs run in a turn. Some of the short queue are left, so that it never ends.
const RUN: usize = 800;
const SLOTS: usize = 4;
const MODELS: usize = 50;
/// Long enough for turns of about a second.
const LOAD: Duration = Duration::from_millis(100);
/// Longer than any machine needs.
const PATIENCE: Duration = Duration::from_secs(300);

/// p99 of a claim beside a long queue, divided by p99 beside a short one.
const AIM: f64 = 1.5;

pub(crate) struct Claims<'a> {
    cluster: &'a Cluster,
    /// How many jobs the long queue has.
    many: usize,
}

/// What the turns with one queue have seen.
#[derive(Default)]
struct Seen {
    /// How long each run of a statement took, by its name.
    took: HashMap<String, Vec<Duration>>,
    /// The CPU time of the worker and of Postgres.
    cpu: [Duration; 2],
    jobs: u32,
}

impl<'a> Claims<'a> {
    pub(crate) fn new(cluster: &'a Cluster, scale: &Scale) -> Self {
        Self { cluster, many: scale.claimed_from }
    }

    /// Measures every contender and returns the table.
    pub(crate) async fn measure(&self, contenders: &[Programs], repeats: u8) -> anyhow::Result<String> {
        let mut table = String::from(
            "\n| claims | models together | queued | groups | a claim: p50, p99 | p99 ratio | aim | a look at all groups: p50, p99 | at known groups: p50, p99 | CPU of a job: worker, Postgres |\n\
             |---|---:|---:|---:|---|---:|---:|---|---|---|\n",
        );
        for programs in contenders {
            for together in [1, 3] {
                let (few, many) = (self.queue(FEW).await, self.queue(self.many).await);
                let mut seen = [Seen::default(), Seen::default()];
                for _ in 0..repeats {
                    // The short queue is filled anew, or it would end.
                    let few = self.queue(FEW).await;
                    for (db, seen) in [&few, &many].into_iter().zip(&mut seen) {
                        turn(programs, db, together, seen).await.with_context(|| programs.to_string())?;
                    }
                }
                let slow = seen.each_ref().map(|seen| quantile(&mut seen.took["claim_jobs"].clone(), 0.99));
                let ratio = slow[1].as_secs_f64() / slow[0].as_secs_f64();
                for ((db, queued), seen) in [(&few, FEW), (&many, self.many)].into_iter().zip(&seen) {
                    let groups: i64 = db.value(GROUPS).await;
                    let ratio = if queued == FEW { String::new() } else { format!("**{ratio:.2}**") };
                    writeln!(
                        table,
                        "| {programs} | {together} | {queued} | {groups} | {} | {ratio} | {AIM} | {} | {} | {}, {} |",
                        seen.took("claim_jobs"),
                        seen.took("ready_groups"),
                        seen.took("ready_groups_at"),
                        millis(seen.cpu[0] / seen.jobs),
                        millis(seen.cpu[1] / seen.jobs),
                    )?;
                }
            }
        }
        Ok(table)
    }

    /// A database with so many ready jobs, and with statistics of them. What its statements take is logged.
    async fn queue(&self, jobs: usize) -> Db {
        let db = Db::on(self.cluster).await;
        db.run("INSERT INTO client (id, name, key_digest)
                SELECT lpad(to_hex(n + 1), 32, '0')::uuid, 'client ' || n, decode(lpad(to_hex(n), 64, '0'), 'hex')
                FROM generate_series(0, 199) AS n")
            .await;
        db.run(&format!("{WITH_JOBS} {INTO_JOB}").replace("JOBS", &jobs.to_string())).await;
        db.run(&format!("{WITH_JOBS} {INTO_READY}").replace("JOBS", &jobs.to_string())).await;
        for setting in ["log_min_duration_statement", "log_parameter_max_length"] {
            db.run(&format!("ALTER DATABASE {} SET {setting} = 0", db.name())).await;
        }
        db.run("VACUUM ANALYZE job, job_ready").await;
        db
    }
}

/// Every user belongs to one of 200 clients. With enough jobs it has some for two models. 7,919 has no common divisor
/// with 10,000, so that few jobs are of many clients and models, too.
const WITH_JOBS: &str = "
    WITH numbered AS MATERIALIZED (
        SELECT n, n % 10000 * 7919 % 10000 AS person FROM generate_series(0, JOBS - 1) AS n
    ), new_job AS (
        SELECT (left(replace(ulid_floor(date_trunc('day', now(), 'UTC'))::text, '-', ''), 12) || lpad(to_hex(n), 20, '0'))::uuid AS id,
               lpad(to_hex(person % 200 + 1), 32, '0')::uuid AS client_id, 'user ' || person AS user_name,
               'model-' || (person / 200 + n / 10000 % 2 * 25) % 50 || ':latest' AS model
        FROM numbered
    )";

const INTO_JOB: &str = r#"
    INSERT INTO job (id, client_id, user_name, model, model_label, load_key, path, body, expires_at)
    SELECT id, client_id, user_name, model, model, model || ' num_ctx=any', '/api/generate',
           '{"model":"' || model || '","prompt":"sim:tokens=1 sim:prompt-delay=10ms","stream":true}', now() + interval '7 days'
    FROM new_job"#;

const INTO_READY: &str = "
    INSERT INTO job_ready (client_id, job_id, load_key, user_name, priority, seq, bytes, eligible_at, expires_at)
    SELECT client_id, id, model || ' num_ctx=any', user_name, 0, 1, 100, now(), now() + interval '7 days'
    FROM new_job";

const GROUPS: &str = "SELECT count(DISTINCT (load_key, client_id, user_name)) FROM job_ready";

/// The statements that Postgres has logged from an offset on: what it did (`bind`, `execute`), for which process, which
/// statement, and how many milliseconds that took.
const LOGGED: &str = r"
    SELECT format('%s %s %s %s', m[3], m[1], m[4], m[2])
    FROM regexp_matches(
        pg_read_file('../log', OFFSET, (SELECT size FROM pg_stat_file('../log')) - OFFSET),
        '\[(\d+)\] LOG:  duration: ([\d.]+) ms  (bind|execute) [^:]+: -- (claim_jobs|ready_groups|ready_groups_at)\n', 'g') AS m";

/// Runs a worker until it has run some jobs.
async fn turn(programs: &Programs, db: &Db, together: usize, seen: &mut Seen) -> anyhow::Result<()> {
    let names: [String; MODELS] = std::array::from_fn(|number| format!("model-{number}"));
    let config = Config { max_loaded: together, max_queue: 1_000, load_delay: LOAD, ..Config::default() };
    let sim = Sim::start(config.models(names.each_ref().map(String::as_str))).await?;
    let offset: i64 = db.value("SELECT size FROM pg_stat_file('../log')").await;
    let before = cpu::of_postgres(db).await;
    let mut worker = Worker::with_models(programs, db, &sim.url(), SLOTS, together);
    let run = sim.until(|log| log.runs().len() >= RUN);
    timeout(PATIENCE, run).await.context("the jobs do not run")?;
    seen.cpu[0] += cpu::of(worker.process.id());
    seen.cpu[1] += cpu::of_postgres(db).await - before;
    seen.jobs += u32::try_from(RUN)?;
    worker.process.terminate().await;
    // The worker may complain of statements that count all waiting jobs and take long: those are not measured here.
    // A statement is bound, which plans it if it must be planned, and then executed.
    let mut bound: HashMap<String, f64> = HashMap::new();
    let lines: Vec<String> = db.values(&LOGGED.replace("OFFSET", &offset.to_string())).await;
    for line in lines {
        let [step, process, name, took] = line.split(' ').collect::<Vec<_>>()[..] else { continue };
        let took: f64 = took.parse()?;
        if step == "bind" {
            bound.insert(process.to_owned(), took);
        } else {
            let took = took + bound.remove(process).unwrap_or_default();
            seen.took.entry(name.to_owned()).or_default().push(Duration::from_secs_f64(took / 1_000.0));
        }
    }
    ensure!(seen.took.contains_key("claim_jobs"), "Postgres has logged no claim");
    Ok(())
}

impl Seen {
    fn took(&self, name: &str) -> String {
        self.took
            .get(name)
            .map_or_else(String::new, |took| format!("{} ({})", median_and_slow(took.clone()), took.len()))
    }
}
