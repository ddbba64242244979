//! An upgrade without a pause: released programs under load, and this tree's take their places one after another.
//! `deploy/upgrade-test` builds what was released and runs this.

mod gateway;
mod load;

use std::{
    collections::{BTreeMap, HashMap},
    env,
    path::PathBuf,
    time::Duration,
};

use foreman_store::JobId;
use foreman_tests::{Api, Cluster, Db, Process, Receiver, Worker, eventually, free_port, within};
use ollama_sim::{Config, Sim};

use crate::metrics::exposition::Exposition;
use gateway::Gateway;
use load::Load;

/// So many jobs are accepted between two steps of the upgrade.
const STEP: usize = 200;

/// Where programs come from.
enum Build {
    Released(PathBuf),
    /// Of this tree, as the harness builds them.
    Ours,
}

impl Build {
    fn start(&self, program: &str, arguments: &[&str], settings: &[(&str, &str)]) -> Process {
        match self {
            Self::Released(dir) => Process::start(dir.join(program).to_str().unwrap(), arguments, settings),
            Self::Ours => Process::start(program, arguments, settings),
        }
    }

    async fn migrate(&self, db: &Db) {
        let mut migrating = self.start("foreman", &["migrate"], &[("DATABASE_URL", db.url())]);
        assert!(migrating.ended().await.success(), "{}", migrating.log());
    }

    /// An api at this address, once it is ready.
    async fn api(&self, db: &Db, address: &str) -> Api {
        let ops = loopback();
        let settings = [
            ("DATABASE_URL", db.url()),
            ("FOREMAN_API_ADDR", address),
            ("FOREMAN_API_OPS_ADDR", &ops),
            ("FOREMAN_AUTH", "off"),
            ("FOREMAN_WEBHOOK_ALLOW", "loopback"),
        ];
        let process = self.start("foreman-api", &[], &settings);
        let api = Api { process, url: format!("http://{address}"), ops_url: format!("http://{ops}") };
        api.ready().await;
        api
    }

    /// A worker for the one Ollama, once it is ready.
    async fn worker(&self, db: &Db, ollama: &str) -> Worker {
        let ops = loopback();
        let settings = [
            ("DATABASE_URL", db.url()),
            ("OLLAMA_HOST", ollama),
            ("FOREMAN_WORKER_OPS_ADDR", &ops),
            ("FOREMAN_WORKER_STREAM_ADDR", "127.0.0.1:0"),
            ("FOREMAN_WORKER_SLOTS", "4"),
            ("FOREMAN_LEASE_TTL", "4s"),
            ("FOREMAN_WEBHOOK_ALLOW", "loopback"),
        ];
        let process = self.start("foreman-worker", &[], &settings);
        let worker = Worker { process, ops_url: format!("http://{ops}") };
        worker.ready().await;
        worker
    }
}

/// Waits until the gateway gives this api no further job.
async fn until_left_alone(api: &Api, load: &Load) {
    let accepted = async || {
        let scraped = Exposition::scrape(&api.ops_url).await;
        scraped.sum("foreman_http_requests_total", &[("route", "/jobs"), ("status", "202")])
    };
    eventually("an api that gets no further job", async || {
        let before = accepted().await;
        load.accepted_more(20).await;
        let after = accepted().await;
        if before == after { Ok(()) } else { Err(format!("{before:?}, then {after:?}")) }
    })
    .await;
}

fn loopback() -> String {
    format!("127.0.0.1:{}", free_port())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "deploy/upgrade-test runs it, with FOREMAN_UPGRADE_FROM"]
async fn an_upgrade_under_load_loses_nothing_and_shows_clients_no_error() {
    let released = env::var_os("FOREMAN_UPGRADE_FROM")
        .expect("deploy/upgrade-test says where the released programs are");
    let (released, ours) = (Build::Released(released.into()), Build::Ours);
    let cluster = Cluster::durable().await;
    let (db, receiver) = (Db::unmigrated(&cluster).await, Receiver::start().await);
    let config = Config { parallel: 4, token_delay: Duration::from_millis(4), ..Config::default() };
    let sim = Sim::start(config).await.unwrap();

    // Now, and not under load, the harness sees to it that ours are fresh.
    assert!(ours.start("foreman", &["--help"], &[]).ended().await.success());
    released.migrate(&db).await;
    let addresses = [loopback(), loopback()];
    let mut apis = [released.api(&db, &addresses[0]).await, released.api(&db, &addresses[1]).await];
    let mut workers = [released.worker(&db, &sim.url()).await, released.worker(&db, &sim.url()).await];
    let both = [addresses[0].as_str(), addresses[1].as_str()];
    let gateway = Gateway::before(&both).await;
    let load = Load::start(&gateway.url, &receiver.url("/"));
    load.accepted_more(STEP).await;

    println!("{} jobs accepted; migrating", load.accepted());
    ours.migrate(&db).await;
    load.accepted_more(STEP).await;
    // The workers go first: an old one leaves what only a new api writes to new ones.
    for worker in &mut workers {
        println!("{} jobs accepted; exchanging a worker", load.accepted());
        worker.process.terminate().await;
        *worker = ours.worker(&db, &sim.url()).await;
        load.accepted_more(STEP).await;
    }
    for (place, api) in apis.iter_mut().enumerate() {
        println!("{} jobs accepted; exchanging the api at {}", load.accepted(), both[place]);
        // The first release resets whoever is connected to it and has not asked yet when it is told to stop.
        gateway.send_to(&[both[1 - place]]);
        until_left_alone(api, &load).await;
        api.process.terminate().await;
        *api = ours.api(&db, both[place]).await;
        gateway.send_to(&both);
        load.accepted_more(STEP).await;
    }
    for (place, api) in apis.iter_mut().enumerate() {
        println!("{} jobs accepted; restarting the new api at {}", load.accepted(), both[place]);
        api.process.terminate().await;
        *api = ours.api(&db, both[place]).await;
        load.accepted_more(STEP).await;
    }

    let seen = load.end().await;
    gateway.end().await;
    println!(
        "{} jobs accepted; {} answers of 503 repeated, {} other errors",
        seen.accepted.len(),
        seen.repeated,
        seen.errors.len()
    );
    assert_eq!(seen.errors, Vec::<String>::new());
    db.every_job_ends().await;
    within(Duration::from_secs(120), "the delivery of every webhook", async || {
        let left: i64 =
            db.value("SELECT (SELECT count(*) FROM outbox) + (SELECT count(*) FROM webhook_delivery)").await;
        if left == 0 { Ok(()) } else { Err(format!("{left} are left")) }
    })
    .await;
    db.every_job_has_one_room().await;

    let rows: Vec<(JobId, String, i32)> =
        sqlx::query_as("SELECT job_id, state, seq FROM job_done").fetch_all(&db.pool).await.unwrap();
    let mut ended: HashMap<String, (String, i32)> =
        rows.into_iter().map(|(job, state, seq)| (job.to_string(), (state, seq))).collect();
    let mut heard: BTreeMap<String, Vec<i32>> = BTreeMap::new();
    for webhook in receiver.received() {
        let body = webhook.json();
        let seq = body["seq"].as_i64().unwrap();
        heard.entry(body["job_id"].as_str().unwrap().to_owned()).or_default().push(seq.try_into().unwrap());
    }
    for job in &seen.accepted {
        let (state, last) = ended.remove(job).unwrap_or_else(|| panic!("{job} was accepted and is gone"));
        assert_eq!(state, "done", "{job}");
        let mut heard = heard.remove(job).unwrap_or_default();
        assert!(heard.is_sorted(), "{job}: {heard:?} is the order of arrival");
        heard.dedup();
        assert_eq!(heard, (1..=last).collect::<Vec<_>>(), "{job}: each event has arrived");
    }
    assert!(ended.is_empty(), "jobs that nobody was told of: {ended:?}");
    println!("every one of them is done, and every change of its state has arrived in order");
}
