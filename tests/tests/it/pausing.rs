//! A worker that is paused past its lease loses its jobs to others, and when it wakes it does no harm.

use chrono::{DateTime, TimeDelta, Utc};
use foreman_tests::{Api, Db, Signal, Worker, eventually};
use ollama_sim::{Config, Sim};

use crate::chat;

const TTL: TimeDelta = TimeDelta::seconds(4);

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_worker_is_rescued_from_in_time_and_its_late_outcome_is_stopped_and_counted() {
    let db = Db::fresh().await;
    let sim = Sim::start(Config::default()).await.unwrap();
    let api = Api::start(&db, &[]).await;
    let paused = Worker::start(&db, &sim.url(), &[]).await;
    let holds = "SELECT count(*) FROM host WHERE holder IS NOT NULL";
    eventually("a worker that holds the host", async || match db.value::<i64>(holds).await {
        1 => Ok(()),
        _ => Err("nobody holds it"),
    })
    .await;
    let other = Worker::start(&db, &sim.url(), &[]).await;
    // Only who has renewed for a full TTL himself may judge others.
    let judges = format!(
        "SELECT count(*) FROM worker WHERE started_at < now() - interval '{} s'",
        TTL.num_seconds() + 1
    );
    eventually("two workers that have lived for a TTL", async || match db.value::<i64>(&judges).await {
        2 => Ok(()),
        judges => Err(format!("{judges} have")),
    })
    .await;

    let id = api.submit(&chat("sim:tokens=10 sim:token-delay=100ms")).await;
    eventually("the job at work", async || match api.get(&format!("/jobs/{id}")).await["state"].as_str() {
        Some("working") => Ok(()),
        state => Err(format!("{state:?}")),
    })
    .await;
    paused.process.signal(Signal::SIGSTOP);
    let last_renewal = "SELECT w.renewed_at FROM worker w JOIN host h ON h.holder = w.id";
    let last_renewal: DateTime<Utc> = db.value(last_renewal).await;
    let requeued = "SELECT at FROM job_event WHERE seq > 1 AND state = 'queued'
                    UNION ALL SELECT at FROM outbox WHERE seq > 1 AND state = 'queued'";
    let rescued_at: DateTime<Utc> =
        eventually("a rescue", async || db.values(requeued).await.pop().ok_or("it is not requeued")).await;
    assert!(rescued_at - last_renewal <= TTL * 3 / 2, "rescued after {}", rescued_at - last_renewal);
    db.every_job_ends().await;

    // By now its own run has long come to its end: it wakes with an outcome in its hands.
    paused.process.signal(Signal::SIGCONT);
    eventually("a stale write that is counted", async || {
        match paused.metric("foreman_stale_writes_total").await {
            0.0 => Err("none is"),
            _ => Ok(()),
        }
    })
    .await;
    assert_eq!(
        db.history(id.parse().unwrap()).await,
        ["queued", "loading", "working", "queued", "loading", "working", "done"]
    );
    assert_eq!(other.metric("foreman_lease_rescues_total").await, 1.0);
    let ended = "SELECT format('%s %s %s %s', state, attempt, failures, rescues) FROM job_done";
    assert_eq!(db.value::<String>(ended).await, "done 2 0 1");
    // And it goes on as another.
    eventually("two live workers", async || match db.value::<i64>("SELECT count(*) FROM worker").await {
        2 => Ok(()),
        workers => Err(format!("{workers} rows")),
    })
    .await;
    db.every_job_has_one_room().await;
}
