//! Postgres' clock is set, and nobody dies of it: who lives is decided by how long a row stays as it is.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use foreman_store::{JobId, JobRequest, NewJob};
use foreman_tests::{Db, Worker, eventually, within};
use ollama_sim::{Config, Sim};

/// `now()` and `clock_timestamp()` as a worker finds them before Postgres' own, ahead by what a table says.
const STEPS: &str = "
    CREATE SCHEMA steps;
    CREATE TABLE steps.clock (ahead interval NOT NULL);
    INSERT INTO steps.clock VALUES ('0');
    CREATE FUNCTION steps.now() RETURNS timestamptz LANGUAGE sql STABLE
        RETURN pg_catalog.now() + (SELECT ahead FROM steps.clock);
    CREATE FUNCTION steps.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
        RETURN pg_catalog.clock_timestamp() + (SELECT ahead FROM steps.clock);";

/// The URL of the same database for a process whose Postgres has that clock.
async fn with_steps(db: &Db) -> String {
    db.run(STEPS).await;
    format!("{}?options=-c%20search_path%3Dpublic,steps,pg_catalog", db.url())
}

async fn step(db: &Db, ahead: &str) {
    db.run(&format!("UPDATE steps.clock SET ahead = '{ahead}'")).await;
}

/// Waits until a worker has renewed twice: janitors have looked in between.
async fn two_renewals(db: &Db) {
    let renewed = "SELECT max(renewed_at) FROM worker";
    for _ in 0..2 {
        let before: DateTime<Utc> = db.value(renewed).await;
        eventually("a renewal", async || {
            if db.value::<DateTime<Utc>>(renewed).await == before { Err("none yet") } else { Ok(()) }
        })
        .await;
    }
}

/// Accepts a job of so many tenths of a second, and waits until it runs. It expires so late that no step reaches it.
async fn at_work(db: &Db, sim: &Sim, tenths: usize) -> JobId {
    let prompt = format!("sim:tokens={tenths} sim:token-delay=100ms");
    let request = JobRequest {
        load_key: "tiny-a:latest".to_owned(),
        path: "/api/generate".to_owned(),
        body: format!(r#"{{"model":"tiny-a","prompt":"{prompt}","stream":true}}"#),
        ..db.request()
    };
    let job = NewJob { expires_at: Utc::now() + TimeDelta::days(40), ..db.job(request) };
    db.accept_all(std::slice::from_ref(&job)).await;
    sim.until(|log| log.running() == 1).await;
    job.id
}

/// Waits until so many workers have lived for a TTL, and so may judge others.
async fn may_judge(db: &Db, workers: i64) {
    let old = "SELECT count(*) FROM worker WHERE started_at < now() - interval '5 s'";
    eventually("workers that have lived for a TTL", async || match db.value::<i64>(old).await {
        old if old == workers => Ok(()),
        old => Err(format!("{old} have")),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_step_of_the_clock_makes_a_lone_worker_rescue_itself() {
    let db = Db::fresh().await;
    let sim = Sim::start(Config::default()).await.unwrap();
    let url = with_steps(&db).await;
    let worker = Worker::start(&db, &sim.url(), &[("DATABASE_URL", &url)]).await;
    let id = "SELECT string_agg(id::text, ' ') FROM worker";
    let before: String = db.value(id).await;
    may_judge(&db, 1).await;
    let job = at_work(&db, &sim, 100).await;
    for ahead in ["60 s", "0", "16 days", "0"] {
        step(&db, ahead).await;
        two_renewals(&db).await;
    }
    db.every_job_ends().await;
    assert_eq!(worker.metric("foreman_lease_rescues_total").await, 0.0);
    assert_eq!(db.value::<String>(id).await, before, "it lives under the same id");
    assert_eq!(db.history(job).await, ["queued", "loading", "working", "done"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dead_are_found_although_the_clock_was_set_back() {
    let db = Db::fresh().await;
    let sim = Sim::start(Config::default()).await.unwrap();
    let url = with_steps(&db).await;
    let mut dies = Worker::start(&db, &sim.url(), &[("DATABASE_URL", &url)]).await;
    let holds = "SELECT count(*) FROM host WHERE holder IS NOT NULL";
    eventually("a holder of the host", async || match db.value::<i64>(holds).await {
        1 => Ok(()),
        _ => Err("nobody has it"),
    })
    .await;
    let other = Worker::start(&db, &sim.url(), &[("DATABASE_URL", &url)]).await;
    may_judge(&db, 2).await;
    let job = at_work(&db, &sim, 30).await;
    step(&db, "-60 s").await;
    dies.process.kill().await;
    // By the clock its row is good for a minute more.
    within(Duration::from_secs(20), "the rescue of its job, which the other runs", async || {
        let room = db.room(job).await;
        if room == "done" { Ok(()) } else { Err(room) }
    })
    .await;
    assert_eq!(other.metric("foreman_lease_rescues_total").await, 1.0);
    assert_eq!(db.value::<i16>("SELECT rescues FROM job_done").await, 1);
}
