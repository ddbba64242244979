//! SIGTERM under load: nothing is lost, the end comes within the grace, and what is held is handed back at once.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use chrono::TimeDelta;
use foreman_store::JobId;
use foreman_tests::{Api, Db, Receiver, Worker, eventually, http};
use ollama_sim::{Config, Sim};

use crate::{chat, chat_with_webhook};

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_told_to_stop_hands_back_what_it_cannot_finish_and_counts_nothing() {
    let db = Db::fresh().await;
    let sim = Sim::start(Config { parallel: 2, ..Config::default() }).await.unwrap();
    let api = Api::start(&db, &[]).await;
    let settings =
        [("FOREMAN_WORKER_SLOTS", "2"), ("FOREMAN_SHUTDOWN_GRACE", "5s"), ("FOREMAN_LEASE_TTL", "20s")];
    let mut worker = Worker::start(&db, &sim.url(), &settings).await;
    for nth in 0..6 {
        api.submit(&chat(&format!("job {nth} sim:tokens=1000 sim:token-delay=100ms"))).await;
    }
    sim.until(|log| log.running() == 2).await;
    let told_at = db.now().await;
    worker.process.terminate().await;
    let took = db.now().await - told_at;
    assert!(took < TimeDelta::seconds(5), "it took {took} of five seconds");
    assert_eq!(db.value::<i64>("SELECT count(*) FROM job_lease").await, 0, "nothing waits for a rescue");
    assert_eq!(db.value::<i64>("SELECT count(*) FROM worker").await, 0);
    assert_eq!(db.value::<i64>("SELECT count(*) FROM host WHERE holder IS NOT NULL").await, 0);
    let untouched = "SELECT count(*) FROM job_ready WHERE failures = 0 AND rescues = 0";
    assert_eq!(db.value::<i64>(untouched).await, 6);
    eventually("an Ollama that is hung up on", async || match sim.look(|log| log.running()) {
        0 => Ok(()),
        running => Err(format!("{running} still run")),
    })
    .await;
    db.every_job_has_one_room().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_worker_that_runs_a_job_to_its_end_within_the_grace_tells_its_receiver_too() {
    let (db, receiver) = (Db::fresh().await, Receiver::start().await);
    let sim = Sim::start(Config::default()).await.unwrap();
    let api = Api::start(&db, &[]).await;
    let mut worker = Worker::start(&db, &sim.url(), &[("FOREMAN_SHUTDOWN_GRACE", "20s")]).await;
    for prompt in ["sim:tokens=20 sim:token-delay=100ms", "this one waits for the next worker"] {
        api.submit(&chat_with_webhook(prompt, &receiver.url("/"))).await;
    }
    sim.until(|log| log.running() == 1).await;
    worker.process.terminate().await;
    assert_eq!(db.value::<i64>("SELECT count(*) FROM job_done WHERE state = 'done'").await, 1);
    assert_eq!(db.value::<i64>("SELECT count(*) FROM job_ready").await, 1, "nothing more was claimed");
    let states: Vec<_> = receiver.received().iter().map(|event| event.json()["state"].clone()).collect();
    let of = |state: &str| states.iter().filter(|seen| *seen == state).count();
    assert_eq!((of("queued"), of("loading"), of("working"), of("done")), (2, 1, 1, 1), "{states:?}");
    assert_eq!(db.value::<i64>("SELECT count(*) FROM webhook_delivery").await, 0, "and that is written");
    assert_eq!(db.value::<i64>("SELECT count(*) FROM outbox").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_told_to_stop_one_after_the_other_lose_no_job_and_no_webhook() {
    let (db, receiver) = (Db::fresh().await, Receiver::start().await);
    let sim = Sim::start(Config { parallel: 2, ..Config::default() }).await.unwrap();
    let api = Api::start(&db, &[]).await;
    let settings =
        [("FOREMAN_WORKER_SLOTS", "2"), ("FOREMAN_SHUTDOWN_GRACE", "5s"), ("FOREMAN_LEASE_TTL", "20s")];
    let mut worker = Worker::start(&db, &sim.url(), &settings).await;
    for nth in 0..120 {
        api.submit(&chat_with_webhook(
            &format!("job {nth} sim:tokens=5 sim:token-delay=5ms"),
            &receiver.url("/"),
        ))
        .await;
    }
    for completed in [20, 45, 70] {
        sim.until(|log| log.completed >= completed).await;
        let told_at = db.now().await;
        worker.process.terminate().await;
        assert!(db.now().await - told_at < TimeDelta::seconds(5));
        worker.process.start_again();
        worker.ready().await;
    }
    db.every_job_ends().await;
    let unscathed = "SELECT count(*) FROM job_done WHERE state = 'done' AND failures = 0 AND rescues = 0";
    assert_eq!(db.value::<i64>(unscathed).await, 120);
    eventually("four webhooks a job", async || match receiver.count() {
        480.. => Ok(()),
        count => Err(format!("{count} have come")),
    })
    .await;
    assert_eq!(receiver.count(), 480, "and none twice: each attempt was finished and written down");
    assert!(sim.log().completions().values().all(|&count| count == 1));
    db.every_job_has_one_room().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_told_to_stop_has_kept_what_it_promised() {
    let db = Db::fresh().await;
    let sim = Sim::start(Config::default()).await.unwrap();
    let mut api = Api::start(&db, &[("FOREMAN_SHUTDOWN_GRACE", "5s")]).await;
    // It publishes the models, and runs nothing while the test looks.
    let mut worker = Worker::start(&db, &sim.url(), &[]).await;
    let first = api.submit(&chat("hello")).await;
    db.every_job_ends().await;
    worker.process.terminate().await;
    let (accepted, stop) = (Arc::new(Mutex::new(vec![first])), Arc::new(AtomicBool::new(false)));
    let submitters: Vec<_> = (0..16)
        .map(|_| {
            let (url, accepted, stop) = (api.url.clone(), Arc::clone(&accepted), Arc::clone(&stop));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let id = Api::submit_if_it_lives(&url, &chat("hello")).await;
                    accepted.lock().unwrap().extend(id);
                }
            })
        })
        .collect();
    eventually("a few hundred accepted jobs", async || match accepted.lock().unwrap().len() {
        300.. => Ok(()),
        count => Err(format!("{count} are")),
    })
    .await;
    // One who waits does not hold it up.
    let waited_for = accepted.lock().unwrap()[100].clone();
    let waiter = tokio::spawn(http().get(format!("{}/jobs/{waited_for}?wait=60", api.url)).send());
    let told_at = db.now().await;
    api.process.terminate().await;
    assert!(db.now().await - told_at < TimeDelta::seconds(5));
    stop.store(true, Ordering::Relaxed);
    for submitter in submitters {
        submitter.await.unwrap();
    }
    let _answered_or_cut_off = waiter.await.unwrap();
    let accepted: Vec<JobId> = accepted.lock().unwrap().iter().map(|id| id.parse().unwrap()).collect();
    let ids: Vec<_> = accepted.iter().map(|id| id.uuid()).collect();
    let kept =
        sqlx::query("SELECT FROM job WHERE id = ANY($1)").bind(&ids).fetch_all(&db.pool).await.unwrap();
    assert_eq!(kept.len(), accepted.len(), "a 202 is kept");
    db.every_job_has_one_room().await;
}
