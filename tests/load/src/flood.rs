//! How long single jobs take beside somebody who has queued thousands: another client, with one user or with very many, or
//! another user of the same key; and where the single jobs need another model than the flood.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use foreman_store::{ClientId, JobId, JobRequest};
use foreman_tests::{Cluster, Db, within};
use rand::RngExt as _;
use tokio::time::sleep_until;

use crate::Scale;
use crate::measure::{millis, quantile};
use crate::mixed::{ollama, request_for, seeded};
use crate::programs::Programs;
use crate::services::{Api, Worker, http_client, models_are_known};

/// How long the two models take to load, in milliseconds.
const LOADS: [u64; 2] = [50, 80];
/// How many milliseconds each job runs.
const RUN: u64 = 20;
/// How many users a client has that has very many.
const USERS: usize = 10_000;
/// How many jobs are put into the queue at once.
const AT_ONCE: usize = 1_000;
/// Longer than any machine needs.
const PATIENCE: Duration = Duration::from_secs(300);

pub(crate) struct Flood<'a> {
    cluster: &'a Cluster,
    /// How many jobs somebody queues.
    jobs: usize,
    /// How many jobs the other one sends, one a second.
    single: usize,
}

/// Who sends single jobs beside whose flood.
struct Case {
    what: &'static str,
    /// Whether the single jobs have the key of the flood.
    same_key: bool,
    /// How many users the flood is of.
    users: usize,
    /// Of which model the single jobs are. The flood is of the first one.
    model: usize,
    aim: &'static str,
}

const CASES: [Case; 4] = [
    Case { what: "another client", same_key: false, users: 1, model: 0, aim: "two jobs more, 40 ms" },
    Case {
        what: "another user of the same key",
        same_key: true,
        users: 1,
        model: 0,
        aim: "two jobs more, 40 ms",
    },
    Case {
        what: "another client with 10,000 users",
        same_key: false,
        users: USERS,
        model: 0,
        aim: "two jobs more, 40 ms",
    },
    Case {
        what: "another client, and the single jobs need another model",
        same_key: false,
        users: 1,
        model: 1,
        aim: "two jobs, a load and a quantum more, 570 ms",
    },
];

impl<'a> Flood<'a> {
    pub(crate) fn new(cluster: &'a Cluster, scale: &Scale) -> Self {
        Self { cluster, jobs: scale.flood, single: scale.single }
    }

    /// Measures every contender and returns the table.
    pub(crate) async fn measure(&self, contenders: &[Programs]) -> anyhow::Result<String> {
        let mut table = String::from(
            "\n| a job a second beside a flood of | | alone: p50, p95 | beside: p50, p95 | aim of p95 |\n|---|---|---|---|---|\n",
        );
        for programs in contenders {
            for case in &CASES {
                let alone = self.single(programs, case, 0).await?;
                let beside = self.single(programs, case, self.jobs).await?;
                writeln!(table, "| {} | {programs} | {alone} | {beside} | {} |", case.what, case.aim)?;
            }
        }
        Ok(table)
    }

    /// How long the single jobs take while somebody has `flood` jobs in the queue.
    async fn single(&self, programs: &Programs, case: &Case, flood: usize) -> anyhow::Result<String> {
        let (sim, db) = (ollama(1, &LOADS).await?, Db::on(self.cluster).await);
        let api = Api::with_keys(programs, &db).await;
        let worker = Worker::start(programs, &db, &sim.url(), 1);
        models_are_known(&db).await;
        let (greedy, single) = (db.new_client("greedy", false).await, db.new_client("single", false).await);
        queue(&db, greedy.client, case.users, flood).await?;
        if flood > 0 {
            sim.until(|log| log.completed > 5).await;
        }
        let (http, began) = (http_client()?, Instant::now());
        let key = if case.same_key { &greedy.key } else { &single.key };
        // At random moments of a second. At whole seconds they would all come at much the same point of a flood's job.
        let (mut random, mut ids) = (seeded(), Vec::new());
        for nth in 0..self.single {
            let at = Duration::from_secs(nth as u64) + Duration::from_millis(random.random_range(0..1_000));
            sleep_until((began + at).into()).await;
            let asked = http.post(format!("http://{}/jobs", api.address)).bearer_auth(key);
            let body = request_for(case.model, 1_000_000 + nth, RUN);
            let answer =
                asked.header("x-foreman-user", "single").body(body).send().await?.error_for_status()?;
            let answer: serde_json::Value = serde_json::from_str(&answer.text().await?)?;
            let id: JobId = answer["job_id"].as_str().context("a job without an id")?.parse()?;
            ids.push(format!("'{}'", id.uuid()));
        }
        let took = format!(
            "SELECT (extract(epoch FROM d.completed_at - j.created_at) * 1000000)::bigint
             FROM job_done d JOIN job j ON j.id = d.job_id WHERE j.id IN ({})",
            ids.join(",")
        );
        let took = within(PATIENCE, "the end of the single jobs", async || {
            let took: Vec<i64> = db.values(&took).await;
            if took.len() == ids.len() { Ok(took) } else { Err(format!("{} of them", took.len())) }
        })
        .await;
        worker.has_no_complaints()?;
        let mut took: Vec<Duration> =
            took.into_iter().map(|micros| Duration::from_micros(micros.unsigned_abs())).collect();
        Ok(format!("{}, {}", millis(quantile(&mut took, 0.5)), millis(quantile(&mut took, 0.95))))
    }
}

/// Puts jobs of the first model into the queue, of as many users of a client in turn.
async fn queue(db: &Db, client: ClientId, users: usize, jobs: usize) -> anyhow::Result<()> {
    let numbers: Vec<usize> = (0..jobs).collect();
    for some in numbers.chunks(AT_ONCE) {
        let mut accepted = Vec::new();
        for number in some {
            accepted.push(db.job(JobRequest {
                client,
                user: format!("user {}", number % users).parse()?,
                model_label: "model-0:latest".to_owned(),
                load_key: "model-0:latest num_ctx=any".to_owned(),
                path: "/api/generate".to_owned(),
                body: request_for(0, *number, RUN),
                ..db.request()
            }));
        }
        db.accept_all(&accepted).await;
    }
    Ok(())
}
