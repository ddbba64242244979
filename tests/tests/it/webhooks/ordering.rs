//! Two dispatchers send to receivers that fail at random. Each job's events come in order all the same, and nothing is lost, also
//! when one of the dispatchers is killed.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use foreman_store::{JobId, NewJob, Phase};
use foreman_tests::{Db, Receiver, ReceiverAnswer, random, success, within};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{dispatcher, job_to};

const RECEIVERS: usize = 5;

/// queued, loading, working, done.
const EVENTS: usize = 4;

/// Jobs that are run together.
const BATCH: usize = 250;

/// Longer than any machine needs.
const PATIENCE: Duration = Duration::from_secs(180);

/// A last event that fails every time is less likely than one in a million. Each of the others fails four times with a chance
/// of one in a hundred, and is given up then.
const SETTINGS: [(&str, &str); 2] = [
    ("FOREMAN_WEBHOOK_TIMEOUT", "3s"),
    ("FOREMAN_WEBHOOK_RETRY_SCHEDULE", "20ms,20ms,20ms,20ms,20ms,20ms,20ms,20ms,20ms,20ms,20ms,20ms"),
];

/// A receiver that fails three times in ten.
struct Moody {
    receiver: Receiver,
    /// The ids of the webhooks that it took, in the order in which they came.
    taken: Arc<Mutex<Vec<String>>>,
}

impl Moody {
    async fn start(seed: u64) -> Self {
        let taken = Arc::<Mutex<Vec<String>>>::default();
        let (random, takes) = (Mutex::new(StdRng::seed_from_u64(seed)), Arc::clone(&taken));
        let receiver = Receiver::answering(move |webhook, _| {
            let mut random = random.lock().unwrap();
            if random.random_bool(0.3) {
                return ReceiverAnswer::Status([404, 500, 502][random.random_range(0..3)]);
            }
            takes.lock().unwrap().push(webhook.header("webhook-id").to_owned());
            ReceiverAnswer::Status(200)
        });
        Self { receiver: receiver.await, taken }
    }

    fn taken(&self) -> Vec<String> {
        self.taken.lock().unwrap().clone()
    }
}

/// Runs jobs to their end while the webhooks of others are being sent.
async fn run_jobs(db: &Db, receivers: &[Moody], count: usize) -> Vec<JobId> {
    let urls: Vec<String> = receivers.iter().map(|moody| moody.receiver.url("/")).collect();
    let holder = db.holder().await;
    let mut all = Vec::new();
    while all.len() < count {
        db.renew(&holder).await;
        let batch: Vec<NewJob> =
            (0..BATCH.min(count - all.len())).map(|nth| job_to(db, &urls[nth % urls.len()])).collect();
        all.extend(db.accept_all(&batch).await);
        let claimed = db.claim(&holder, batch.len()).await;
        assert_eq!(claimed.len(), batch.len());
        let begins: Vec<_> = claimed.iter().map(|job| (&job.lease, Phase::Working)).collect();
        db.store.begin(&begins).await.unwrap();
        let ends: Vec<_> = claimed.into_iter().map(|job| (job.lease, success())).collect();
        db.settle(&ends).await.unwrap();
    }
    all
}

/// Sends the webhooks of this many jobs from two dispatchers. `kill` says whether one of them is killed in the middle.
async fn two_dispatchers_send(jobs: usize, kill: bool) {
    let mut random = random();
    let db = Db::fresh().await;
    let mut receivers = Vec::new();
    for _ in 0..RECEIVERS {
        receivers.push(Moody::start(random.random()).await);
    }
    let (mut one, _other) = (dispatcher(&db, &SETTINGS).await, dispatcher(&db, &SETTINGS).await);
    let began = Instant::now();
    let killing = async {
        within(PATIENCE, "half of the webhooks", async || {
            let taken: usize = receivers.iter().map(|moody| moody.taken().len()).sum();
            if taken >= jobs * EVENTS / 2 { Ok(()) } else { Err(taken) }
        })
        .await;
        one.process.kill().await;
        one.process.start_again();
    };
    let made = async { run_jobs(&db, &receivers, jobs).await };
    let jobs = if kill { tokio::join!(made, killing).0 } else { made.await };
    within(PATIENCE, "the end of all webhooks", async || {
        let left: i64 =
            db.value("SELECT (SELECT count(*) FROM outbox) + (SELECT count(*) FROM webhook_delivery)").await;
        if left == 0 { Ok(()) } else { Err(left) }
    })
    .await;
    let took = began.elapsed();

    let given_up: Vec<(JobId, i32)> =
        sqlx::query_as("SELECT job_id, seq FROM webhook_attempt WHERE outcome = 'failed'")
            .fetch_all(&db.pool)
            .await
            .unwrap();
    let given_up: HashSet<String> = given_up.iter().map(|(job, seq)| format!("{job}_{seq}")).collect();
    let (mut taken, mut doubled) = (HashSet::new(), 0);
    for moody in &receivers {
        let mut last: HashMap<String, i32> = HashMap::new();
        for id in moody.taken() {
            if !taken.insert(id.clone()) {
                doubled += 1;
                continue;
            }
            let (job, seq) = id.split_once('_').unwrap();
            let seq: i32 = seq.parse().unwrap();
            let before = last.insert(job.to_owned(), seq).unwrap_or_default();
            assert!(before < seq, "{job}: {seq} came first after {before}");
        }
    }
    for job in &jobs {
        for seq in 1..=EVENTS {
            let id = format!("{job}_{seq}");
            let may_be_given_up = seq < EVENTS && given_up.contains(&id);
            assert!(taken.contains(&id) || may_be_given_up, "{id} is lost");
        }
    }
    assert!(given_up.len() <= jobs.len() * EVENTS / 50, "{} of {} jobs' events", given_up.len(), jobs.len());
    // The sender did not learn how these ended.
    let unknown: i64 = db
        .value(
            "SELECT count(*) FROM webhook_attempt
             WHERE error_code IN ('dispatcher_lost', 'timeout', 'connection_lost')",
        )
        .await;
    assert!(doubled <= unknown, "{doubled} came twice, and the outcome of {unknown} was unknown");
    let attempts: i64 = db.value("SELECT count(*) FROM webhook_attempt").await;
    tell(&format!(
        "{} jobs, {attempts} attempts, {} given up, {doubled} doubled, {unknown} of unknown outcome, {took:.1?}",
        jobs.len(),
        given_up.len()
    ));
}

#[expect(clippy::print_stderr, reason = "the harness shows it where the figures are asked for")]
fn tell(figures: &str) {
    eprintln!("{figures}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_dispatchers_and_receivers_that_fail_at_random_keep_the_order_and_lose_nothing() {
    two_dispatchers_send(1_000, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatcher_killed_beside_another_neither_breaks_the_order_nor_loses_anything() {
    two_dispatchers_send(1_000, true).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: five times as many jobs as above, with and without a kill"]
async fn five_thousand_jobs_keep_their_order() {
    for kill in [false, true] {
        two_dispatchers_send(5_000, kill).await;
    }
}
