//! Postgres falls silent, or somebody locks its tables: api and worker go on as before soon after, nothing is lost, and
//! nothing was said that is not true.

use std::{
    collections::HashSet,
    env,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use foreman_tests::{Api, Db, Line, Receiver, Worker, http, within};
use ollama_sim::{Config, Sim};
use serde_json::Value;
use tokio::{
    task::{JoinHandle, JoinSet},
    time::interval,
};

use crate::{chat, chat_with_webhook};

/// After a silence, or the release of a lock, everything is as before within this.
const HEALS_WITHIN: Duration = Duration::from_secs(30);

/// Between two submissions of the load.
const PACE: Duration = Duration::from_millis(25);

/// Api and worker, which reach Postgres through a line.
struct House {
    db: Arc<Db>,
    line: Line,
    api: Api,
    worker: Worker,
    receiver: Receiver,
    _sim: Sim,
}

impl House {
    async fn new() -> Self {
        let db = Arc::new(Db::fresh().await);
        let line = db.line().await;
        let url = line.url(db.url());
        let sim = Sim::start(Config { parallel: 4, ..Config::default() }).await.unwrap();
        let database = [("DATABASE_URL", url.as_str())];
        let worker =
            [("DATABASE_URL", url.as_str()), ("FOREMAN_WORKER_SLOTS", "4"), ("FOREMAN_LEASE_TTL", "20s")];
        let ollama = sim.url();
        let (api, worker) = tokio::join!(Api::start(&db, &database), Worker::start(&db, &ollama, &worker));
        Self { db, line, api, worker, receiver: Receiver::start().await, _sim: sim }
    }

    /// One job through all of it, and its webhooks.
    async fn works(&self) {
        within(HEALS_WITHIN, "a job that is accepted, done and told of", async || {
            let path = format!("/{:032x}", rand::random::<u128>());
            let job = chat_with_webhook("hello", &self.receiver.url(&path));
            let Some(id) = Api::submit_if_it_lives(&self.api.url, &job).await else {
                return Err("it is not accepted".to_owned());
            };
            within(HEALS_WITHIN, "its end and its webhooks", async || {
                let state = self.api.get(&format!("/jobs/{id}")).await["state"].clone();
                let told = self.receiver.received().iter().filter(|webhook| webhook.path == path).count();
                if state == "done" && told >= 4 { Ok(()) } else { Err(format!("{state}, {told} webhooks")) }
            })
            .await;
            Ok(())
        })
        .await;
        for ops in [&self.api.ops_url, &self.worker.ops_url] {
            within(HEALS_WITHIN, "a service that is ready", async || {
                let answer = http().get(format!("{ops}/readyz")).send().await.unwrap();
                if answer.status().is_success() { Ok(()) } else { Err(answer.text().await.unwrap()) }
            })
            .await;
        }
    }

    /// The server processes of api and worker.
    async fn backends(&self) -> i64 {
        let ours = "SELECT count(*) FROM pg_stat_activity
                    WHERE datname = current_database() AND application_name = 'foreman'";
        self.db.value(ours).await
    }

    /// Checks what was said, once everything has come to its end.
    async fn has_said_the_truth(&self, said: &Said) {
        self.db.every_job_ends().await;
        self.db.every_job_has_one_room().await;
        let stored: Vec<sqlx::types::Uuid> = self.db.values("SELECT id FROM job").await;
        let stored: HashSet<String> =
            stored.into_iter().map(|id| foreman_store::JobId::from(id).to_string()).collect();
        let accepted: HashSet<String> = said.accepted.lock().unwrap().iter().cloned().collect();
        let lost: Vec<_> = accepted.difference(&stored).collect();
        assert!(lost.is_empty(), "accepted and not there: {lost:?}");
        let prompts: Vec<String> = self.db.values("SELECT body FROM job").await;
        for denied in said.denied.lock().unwrap().iter() {
            let marker = format!("\"{denied}\"");
            assert!(!prompts.iter().any(|body| body.contains(&marker)), "{denied} was denied and is there");
        }
        let done: i64 = self.db.value("SELECT count(*) FROM job_done WHERE state = 'done'").await;
        assert_eq!(usize::try_from(done).unwrap(), stored.len(), "every job is done");
    }
}

/// What an api has answered.
#[derive(Debug, Default)]
struct Said {
    accepted: Mutex<Vec<String>>,
    /// The prompts of jobs that were not accepted.
    denied: Mutex<Vec<String>>,
}

/// Submits at a steady pace until it is stopped, and waits for every answer.
struct Load {
    said: Arc<Said>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Load {
    fn start(url: &str) -> Self {
        let (said, stop) = (Arc::<Said>::default(), Arc::<AtomicBool>::default());
        let task = tokio::spawn(submit_steadily(url.to_owned(), Arc::clone(&said), Arc::clone(&stop)));
        Self { said, stop, task }
    }

    async fn stop(self) -> Arc<Said> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
        self.said
    }

    async fn has_accepted_more(&self) {
        let count = || self.said.accepted.lock().unwrap().len();
        let before = count();
        within(HEALS_WITHIN, "further accepted jobs", async || {
            if count() > before + 10 { Ok(()) } else { Err(count() - before) }
        })
        .await;
    }
}

async fn submit_steadily(url: String, said: Arc<Said>, stop: Arc<AtomicBool>) {
    let (mut pace, mut requests) = (interval(PACE), JoinSet::new());
    // Several loads run in one house, one after the other.
    let load: u64 = rand::random();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        pace.tick().await;
        let (url, said) = (url.clone(), Arc::clone(&said));
        requests.spawn(async move {
            let prompt = format!("job {number} of load {load}");
            let answer =
                http().post(format!("{url}/jobs")).body(chat(&prompt).to_string()).send().await.unwrap();
            let status = answer.status().as_u16();
            let body: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
            match (status, body["code"].as_str()) {
                (202, _) => said.accepted.lock().unwrap().push(body["job_id"].as_str().unwrap().to_owned()),
                (503, Some("acceptance_unknown")) => {}
                (503, Some("not_accepted" | "database_away")) => said.denied.lock().unwrap().push(prompt),
                other => panic!("{other:?}: {body}"),
            }
        });
    }
    while let Some(answered) = requests.join_next().await {
        answered.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_silence_everything_is_as_before_though_nothing_was_under_way() {
    let house = House::new().await;
    house.works().await;
    house.line.fall_silent();
    house.works().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silence_under_load_loses_nothing_and_nothing_untrue_is_said() {
    let house = House::new().await;
    house.works().await;
    let load = Load::start(&house.api.url);
    load.has_accepted_more().await;
    house.line.fall_silent();
    load.has_accepted_more().await;
    let said = load.stop().await;
    house.works().await;
    house.has_said_the_truth(&said).await;
}

/// The tables that statements of every second go to.
const HOT: [&str; 16] = [
    "job",
    "job_ready",
    "job_scheduled",
    "job_lease",
    "job_done",
    "artifact",
    "outbox",
    "job_event",
    "webhook_delivery",
    "webhook_lane",
    "webhook_attempt",
    "worker",
    "host",
    "api_process",
    "idempotency_key",
    "client",
];

/// Locks one table after the other, each for so long, under load.
async fn lock_each_in_turn(tables: &[&str], held_for: Duration) {
    let house = House::new().await;
    house.works().await;
    let began = house.backends().await;
    let id = "SELECT id::text FROM worker";
    for table in tables {
        let worker: Vec<String> = house.db.values(id).await;
        let load = Load::start(&house.api.url);
        load.has_accepted_more().await;
        let mut lock = house.db.pool.begin().await.unwrap();
        let statement = format!("LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE");
        sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut *lock).await.unwrap();
        sqlx::query("SET LOCAL idle_in_transaction_session_timeout = 0").execute(&mut *lock).await.unwrap();
        // The lock is held by Postgres' own clock.
        let hold = format!("SELECT pg_sleep({})", held_for.as_secs());
        sqlx::query(sqlx::AssertSqlSafe(hold)).execute(&mut *lock).await.unwrap();
        let most = house.backends().await;
        assert!(most <= began + 40, "{table}: {most} server processes, and there were {began}");
        lock.rollback().await.unwrap();
        load.has_accepted_more().await;
        let said = load.stop().await;
        house.works().await;
        house.has_said_the_truth(&said).await;
        // A lock on its own row keeps a worker from saying that it lives; no other may.
        if !matches!(*table, "worker" | "host") {
            assert_eq!(house.db.values::<String>(id).await, worker, "{table}: the worker was taken for dead");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_on_the_leases_takes_no_worker_for_dead_and_a_lock_on_the_queue_denies_truly() {
    lock_each_in_turn(&["job_lease", "job_ready"], Duration::from_secs(4)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes 20 minutes: locks each hot table for 60 s, or for what FOREMAN_TEST_LOCK_SECONDS says"]
async fn a_lock_on_each_hot_table_in_turn_holds_nothing_up_for_longer_than_it_lasts() {
    let seconds = env::var("FOREMAN_TEST_LOCK_SECONDS").ok().and_then(|text| text.parse().ok());
    let table = env::var("FOREMAN_TEST_LOCK_TABLE").ok();
    let tables = table.as_deref().map_or(HOT.to_vec(), |table| vec![table]);
    lock_each_in_turn(&tables, Duration::from_secs(seconds.unwrap_or(60))).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes 2 minutes: keeps falling silent for 60 s"]
async fn a_minute_of_silences_is_over_soon_after_it() {
    let house = House::new().await;
    house.works().await;
    let load = Load::start(&house.api.url);
    load.has_accepted_more().await;
    // Whatever is connected falls silent again each 100 ms: no connection lasts.
    let mut again = interval(Duration::from_millis(100));
    for _ in 0..600 {
        again.tick().await;
        house.line.fall_silent();
    }
    load.has_accepted_more().await;
    let said = load.stop().await;
    house.works().await;
    house.has_said_the_truth(&said).await;
}
