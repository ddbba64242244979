//! The jobs of a dead api are cancelled, and those of a live api stay.

use std::time::Duration;

use foreman_store::{ApiId, Heartbeat, JobId, LeaseAddress, NewJob, Orphaned, Phase, Scope, StreamAddress};
use foreman_tests::{Db, Worker, eventually};
use ollama_sim::{Config, Sim};

const TTL: Duration = Duration::from_secs(20);

/// An api process that lives.
async fn api(db: &Db) -> ApiId {
    let api = ApiId::generate();
    db.store.renew_api(api, TTL).await.unwrap();
    api
}

/// Accepts this many sync calls of an api.
async fn accept(db: &Db, api: ApiId, count: usize) -> Vec<JobId> {
    let jobs: Vec<_> = (0..count).map(|_| NewJob { api: Some(api), ..db.new_job() }).collect();
    db.accept_all(&jobs).await
}

async fn seen(db: &Db, api: ApiId) -> Heartbeat<ApiId> {
    let heartbeats = db.store.api_heartbeats().await.unwrap();
    heartbeats.into_iter().find(|one| one.id == api).unwrap()
}

#[tokio::test]
async fn a_job_says_to_its_worker_which_api_waits_for_it() {
    let db = Db::fresh().await;
    let api = api(&db).await;
    db.accept(1).await;
    accept(&db, api, 1).await;
    let claimed = db.claim(&db.holder().await, 2).await;
    assert_eq!(claimed.iter().map(|claimed| claimed.api).collect::<Vec<_>>(), [None, Some(api)]);
}

#[tokio::test]
async fn the_jobs_of_a_dead_api_are_cancelled_in_every_room_and_nobody_elses() {
    let db = Db::fresh().await;
    let (dead, live) = (api(&db).await, api(&db).await);
    let holder = db.holder().await;
    let leased = accept(&db, dead, 1).await[0];
    let lease = db.start(&holder).await;
    let ready = accept(&db, dead, 1).await[0];
    let later = NewJob { run_at: Some(db.now().await + TTL), api: Some(dead), ..db.new_job() };
    let scheduled = db.accept_all(&[later]).await[0];
    let other = accept(&db, live, 1).await[0];
    let nobodys = db.accept(1).await[0];

    let found = db.store.cancel_orphans(&[seen(&db, dead).await]).await.unwrap();
    assert_eq!(found, Orphaned { apis: 1, jobs: 3 });
    assert_eq!(db.store.cancelled_leases(holder.worker).await.unwrap(), [lease.no]);
    assert_eq!(db.room(leased).await, "lease", "its worker ends it");
    for job in [ready, scheduled] {
        assert_eq!(db.history(job).await, ["queued", "cancelled"]);
    }
    for job in [other, nobodys] {
        assert_eq!(db.room(job).await, "ready");
    }
    let left: Vec<_> = db.store.api_heartbeats().await.unwrap().iter().map(|seen| seen.id).collect();
    assert_eq!(left, [live], "the row of the dead one is gone");
    db.every_job_has_one_room().await;
}

#[tokio::test]
async fn an_api_that_was_paused_and_has_renewed_since_it_was_seen_keeps_its_jobs() {
    let db = Db::fresh().await;
    let paused = api(&db).await;
    let job = accept(&db, paused, 1).await[0];
    let before = seen(&db, paused).await;
    db.store.renew_api(paused, TTL).await.unwrap();
    assert_eq!(db.store.cancel_orphans(&[before]).await.unwrap(), Orphaned::default());
    assert_eq!(db.room(job).await, "ready");

    // It wakes only after its jobs were cancelled: it has a row again, so that its next jobs have somebody.
    db.store.cancel_orphans(&[seen(&db, paused).await]).await.unwrap();
    assert_eq!(db.room(job).await, "cancelled");
    db.store.renew_api(paused, TTL).await.unwrap();
    assert_eq!(seen(&db, paused).await.ttl, TTL);
    db.store.deregister_api(paused).await.unwrap();
    assert_eq!(db.store.api_heartbeats().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_janitor_cancels_the_jobs_of_an_api_that_was_silent_for_its_ttl_and_no_others() {
    let db = Db::fresh().await;
    let (dead, live) = (ApiId::generate(), api(&db).await);
    db.store.renew_api(dead, Duration::from_secs(1)).await.unwrap();
    let [orphan, other] = [accept(&db, dead, 1).await[0], accept(&db, live, 1).await[0]];
    // As if somebody had set Postgres' clock: only what the janitor itself sees counts.
    db.run("UPDATE api_process SET renewed_at = now() - interval '1 hour'").await;
    let sim = Sim::start(Config::default()).await.unwrap();
    let settings = [("FOREMAN_LEASE_TTL", "2s"), ("FOREMAN_WORKER_ROLES", "janitor")];
    let _worker = Worker::start(&db, &sim.url(), &settings).await;
    eventually("the end of the orphan", async || {
        let room = db.room(orphan).await;
        if room == "cancelled" { Ok(()) } else { Err(room) }
    })
    .await;
    assert_eq!(db.room(other).await, "ready");
}

#[tokio::test]
async fn an_api_finds_the_worker_that_has_a_job() {
    let db = Db::fresh().await;
    let [job, waiting] = db.accept(2).await.try_into().unwrap();
    let holder = db.holder().await;
    let place = async |scope, job| db.store.place_of(scope, job).await.unwrap();
    assert_eq!(place(Scope::Everyone, job).await, None, "no worker has it");
    db.start(&holder).await;
    let mut found = LeaseAddress { url: None, attempt: 1, phase: Phase::Working };
    assert_eq!(place(Scope::Everyone, job).await, Some(found.clone()));
    assert_eq!(db.store.stream_addresses().await.unwrap(), []);

    let url = "http://10.0.0.7:8090";
    let host = holder.host.as_str();
    db.store.deregister_worker(holder.worker).await.unwrap();
    db.store.register_worker(holder.worker, host, &["run"], TTL, Some(url)).await.unwrap();
    found.url = Some(url.to_owned());
    assert_eq!(place(Scope::Client(db.client), job).await, Some(found));
    let address = StreamAddress { worker: holder.worker, host: host.to_owned(), url: url.to_owned() };
    assert_eq!(db.store.stream_addresses().await.unwrap(), [address]);
    assert_eq!(place(Scope::Client(foreman_store::ClientId::generate()), job).await, None, "not theirs");
    assert_eq!(place(Scope::Everyone, waiting).await, None);
}
