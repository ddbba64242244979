//! Webhooks, from the transition to the receiver: what is promised of them, and the interleavings and receivers that
//! would break it.

mod at_once;
mod bodies;
mod claiming;
mod dying;
mod gates;
mod heavy;
mod hostile;
mod keeping_house;
mod lanes;
mod names;
mod ordering;
mod plans;
mod rate_limits;
mod receivers;
mod relaying;
mod retrying;
mod settling;
mod signing;

use std::fs;
use std::time::{Duration, Instant};

use chrono::DateTime;
use foreman_store::{
    ClaimedDeliveries, Delivery, DeliveryOutcome, DeliveryReport, DeliveryTerms, JobId, JobRequest, LaneNews,
    LaneOffer, LaneSearch, Lanes, NewJob, Relayed, ReportSettled, Store,
};
use foreman_tests::{Db, Process, Worker, eventually, free_port, success};
use foreman_webhook::ReceiverUrl;

pub(crate) const URL: &str = "http://127.0.0.1:9/hook";

/// As `FOREMAN_WEBHOOK_RETRY_SCHEDULE` with many waits makes them.
const TERMS: DeliveryTerms = DeliveryTerms {
    lease: Duration::from_secs(25),
    max_attempts_terminal: 10,
    max_attempts: 4,
    inline_limit: 1 << 20,
};

/// Room for heavy ones, of a lane and in all, in bytes.
const HEAVY: i64 = 16 << 20;

pub(crate) const RETRY: DeliveryOutcome =
    DeliveryOutcome::Retry { wait: Duration::from_secs(60), code: "status_5xx" };

/// A job whose receiver is at `url`.
fn job_to(db: &Db, url: &str) -> NewJob {
    let url = ReceiverUrl::parse(url).unwrap();
    let receiver = foreman_store::JobReceiver { url: url.to_string(), origin: url.origin(), events: None };
    db.job(JobRequest { receiver: Some(receiver), ..db.request() })
}

/// Jobs to one receiver that have come to `done`, with the four events of each still in the outbox.
pub(crate) async fn done_jobs_to(db: &Db, url: &str, count: usize) -> Vec<JobId> {
    let jobs: Vec<NewJob> = (0..count).map(|_| job_to(db, url)).collect();
    let jobs = db.accept_all(&jobs).await;
    let holder = db.holder().await;
    for _ in 0..count {
        let lease = db.start(&holder).await;
        db.settle(&[(lease, success())]).await.unwrap();
    }
    jobs
}

/// Relays until nothing is left.
pub(crate) async fn relay(store: &Store) {
    while !matches!(store.relay(1_000).await.unwrap(), Relayed::Moved { events: 0, .. }) {}
}

/// Looks at all lanes.
pub(crate) async fn look(store: &Store) -> Lanes {
    store.look_at_lanes(&LaneSearch::everywhere(Vec::new())).await.unwrap()
}

/// Claims everything that may be claimed now, of every lane.
pub(crate) async fn claim(store: &Store) -> ClaimedDeliveries {
    let lanes = look(store).await;
    let offers: Vec<LaneOffer> = lanes
        .heads
        .iter()
        .map(|head| LaneOffer {
            lane: head.lane,
            since: DateTime::UNIX_EPOCH,
            at_most: 1_000,
            heavy_bytes: HEAVY,
        })
        .collect();
    store.claim_deliveries(&offers, HEAVY, TERMS).await.unwrap()
}

/// Claims the one delivery that may be claimed now.
pub(crate) async fn claim_one(store: &Store) -> Delivery {
    let claimed = claim(store).await;
    let [delivery] = <[Delivery; 1]>::try_from(claimed.to_send).unwrap_or_else(|found| panic!("{found:?}"));
    delivery
}

/// What an attempt that has just ended reports.
fn report(delivery: Delivery, outcome: DeliveryOutcome) -> DeliveryReport {
    let now = Instant::now();
    DeliveryReport {
        claim: delivery.claim,
        job: delivery.job,
        seq: delivery.event.seq,
        receiver: delivery.receiver,
        event: delivery.event.state,
        attempt: delivery.attempt,
        started: now,
        ended: now,
        status: (outcome == DeliveryOutcome::Delivered).then_some(200),
        response: None,
        outcome,
        news: match outcome {
            DeliveryOutcome::Delivered => LaneNews::Succeeded,
            DeliveryOutcome::Retry { code, .. } | DeliveryOutcome::Failed { code } => {
                LaneNews::Failed { code, hold: None }
            }
            DeliveryOutcome::Release { .. } => LaneNews::Unknown,
        },
        is_probe: delivery.is_probe,
    }
}

pub(crate) async fn settle(store: &Store, delivery: Delivery, outcome: DeliveryOutcome) -> ReportSettled {
    store.settle_deliveries(&[report(delivery, outcome)]).await.unwrap()[0]
}

/// The log of all attempts: seq, number, outcome and code of each, in this order.
async fn log(db: &Db) -> Vec<String> {
    db.values("SELECT concat_ws(' ', seq, attempt, outcome, error_code) FROM webhook_attempt ORDER BY job_id, seq, attempt")
        .await
}

/// A worker that runs no jobs: it relays, sends and keeps house. `settings` win over ours.
pub(crate) async fn dispatcher(db: &Db, settings: &[(&str, &str)]) -> Worker {
    let ops = format!("127.0.0.1:{}", free_port());
    let ours = [
        ("DATABASE_URL", db.url()),
        ("FOREMAN_WORKER_ROLES", "relay,dispatch,janitor"),
        ("FOREMAN_WORKER_OPS_ADDR", &ops),
        ("FOREMAN_LEASE_TTL", "4s"),
        ("FOREMAN_WEBHOOK_ALLOW", "loopback"),
    ];
    let process = Process::start("foreman-worker", &[], &[&ours[..], settings].concat());
    let worker = Worker { process, ops_url: format!("http://{ops}") };
    worker.ready().await;
    worker
}

/// The log once it has so many entries.
pub(crate) async fn logged(db: &Db, count: usize) -> Vec<String> {
    eventually(&format!("{count} attempts"), async || {
        let log = log(db).await;
        if log.len() == count { Ok(log) } else { Err(format!("{log:?}")) }
    })
    .await
}

/// The most memory that a process has had, in MiB.
fn peak_memory(worker: &Worker) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", worker.process.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux says so");
    peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
}
