//! Nothing that was accepted is lost, whoever is killed whenever.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use foreman_tests::{Api, Cluster, Db, Receiver, Worker, random, within};
use ollama_sim::{Config, Sim};
use rand::RngExt;
use tokio::{task::JoinSet, time};

use crate::chat_with_webhook;

/// Jobs whose 202 was read.
const JOBS: usize = 2_100;
const KILLS: usize = 12;
/// Between two submissions.
const PACE: Duration = Duration::from_millis(12);

/// The ids of accepted jobs, while they are being submitted.
type Accepted = Arc<Mutex<Vec<String>>>;

/// Submits at a steady pace, whoever is dead, until enough jobs are accepted.
async fn submit_steadily(api: String, receiver: String, accepted: Accepted) {
    let mut pace = time::interval(PACE);
    let mut requests = JoinSet::new();
    for number in 0.. {
        if accepted.lock().unwrap().len() >= JOBS {
            break;
        }
        pace.tick().await;
        let (api, accepted) = (api.clone(), Arc::clone(&accepted));
        let job = chat_with_webhook(&format!("job {number} sim:tokens=3"), &receiver);
        requests.spawn(async move {
            let id = Api::submit_if_it_lives(&api, &job).await;
            accepted.lock().unwrap().extend(id);
        });
    }
    requests.join_all().await;
}

async fn until_accepted(accepted: &Accepted, count: usize) {
    within(Duration::from_secs(60), "further accepted jobs", async || {
        let now = accepted.lock().unwrap().len();
        if now >= count { Ok(()) } else { Err(format!("{now} of {count}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn api_worker_and_postgres_killed_in_turn_lose_nothing_that_was_accepted() {
    let mut random = random();
    let cluster = Cluster::durable().await;
    let (db, receiver) = (Db::on(&cluster).await, Receiver::start().await);
    let config = Config { parallel: 4, token_delay: Duration::from_millis(4), ..Config::default() };
    let sim = Sim::start(config).await.unwrap();
    let mut api = Api::start(&db, &[]).await;
    let settings = [
        ("FOREMAN_WORKER_SLOTS", "4"),
        ("FOREMAN_LEASE_TTL", "2s"),
        ("FOREMAN_WEBHOOK_TIMEOUT", "2s"),
        ("FOREMAN_WEBHOOK_RETRY_SCHEDULE", "1s,1s,1s,1s,1s,1s,1s,1s,1s,1s"),
    ];
    let mut worker = Worker::start(&db, &sim.url(), &settings).await;
    let accepted = Accepted::default();
    let load = tokio::spawn(submit_steadily(api.url.clone(), receiver.url("/"), Arc::clone(&accepted)));

    let mut next = 0;
    for kill in 0..KILLS {
        next += random.random_range(JOBS / KILLS / 2..JOBS / KILLS);
        until_accepted(&accepted, next).await;
        match kill % 3 {
            0 => {
                api.process.kill().await;
                api.process.start_again();
            }
            1 => {
                worker.process.kill().await;
                worker.process.start_again();
            }
            _ => {
                cluster.kill();
                cluster.start_again().await;
            }
        }
    }
    load.await.unwrap();
    let accepted: HashSet<String> = accepted.lock().unwrap().drain(..).collect();
    assert!(accepted.len() >= JOBS, "{} ids of {JOBS} jobs", accepted.len());
    db.every_job_ends().await;
    within(Duration::from_secs(60), "the delivery of every webhook", async || {
        let left: i64 =
            db.value("SELECT (SELECT count(*) FROM outbox) + (SELECT count(*) FROM webhook_delivery)").await;
        if left == 0 { Ok(()) } else { Err(format!("{left} are left")) }
    })
    .await;

    db.every_job_has_one_room().await;
    db.every_end_is_counted_once().await;
    let ended: BTreeMap<String, String> =
        sqlx::query_as::<_, (foreman_store::JobId, String)>("SELECT job_id, state FROM job_done")
            .fetch_all(&db.pool)
            .await
            .unwrap()
            .into_iter()
            .map(|(job, state)| (job.to_string(), state))
            .collect();
    for job in &accepted {
        assert_eq!(ended.get(job).map(String::as_str), Some("done"), "{job} was accepted");
    }
    let mut history: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for (job, seq, state) in sqlx::query_as::<_, (foreman_store::JobId, i32, String)>(
        "SELECT job_id, seq, state FROM job_event ORDER BY job_id, seq",
    )
    .fetch_all(&db.pool)
    .await
    .unwrap()
    {
        let numbers = history.entry(job.to_string()).or_default();
        numbers.push(seq.into());
        assert_eq!(
            numbers.len(),
            usize::try_from(seq).unwrap(),
            "{job}: no number is missing and none comes twice"
        );
        assert!(state != "failed", "{job}");
    }
    let mut heard: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for webhook in receiver.received() {
        let body = webhook.json();
        heard
            .entry(body["job_id"].as_str().unwrap().to_owned())
            .or_default()
            .push(body["seq"].as_i64().unwrap());
    }
    for (job, numbers) in &history {
        let mut heard = heard.remove(job).unwrap_or_default();
        assert!(heard.is_sorted(), "{job}: {heard:?} is the order of arrival");
        heard.dedup();
        assert_eq!(&heard, numbers, "{job}: each event has arrived");
    }
    assert!(heard.is_empty(), "webhooks of unknown jobs: {heard:?}");
}
