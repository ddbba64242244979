//! Hosts with different models share one queue: none fails what another may still run.

use std::time::Duration;

use foreman_store::JobRequest;
use foreman_tests::{Api, Db, Worker, eventually, within};
use ollama_sim::{Config, Sim};

use crate::chat;

/// Jobs of each model.
const JOBS: usize = 40;

async fn submit(api: &Api, model: &str, count: usize) {
    for nth in 0..count {
        let mut job = chat(&format!("job {nth} sim:tokens=5 sim:token-delay=10ms"));
        job["model"] = model.into();
        api.submit(&job).await;
    }
}

/// Two hosts with a model each, one of which is away for so long while both have work.
async fn one_of_two_hosts_reboots(away_for: Duration) {
    let db = Db::fresh().await;
    let sim = async |model| Sim::start(Config::default().models([model])).await.unwrap();
    let (stays, reboots) = (sim("tiny-a").await, sim("tiny-b").await);
    let api = Api::start(&db, &[]).await;
    let _worker = Worker::start(&db, &stays.url(), &[]).await;
    let mut rebooted = Worker::start(&db, &reboots.url(), &[]).await;
    let published = "SELECT count(*) FROM host WHERE published_at IS NOT NULL";
    eventually("two hosts", async || match db.value::<i64>(published).await {
        2 => Ok(()),
        hosts => Err(format!("{hosts} have published")),
    })
    .await;
    submit(&api, "tiny-a", JOBS).await;
    submit(&api, "tiny-b", JOBS).await;
    reboots.until(|log| log.completed >= 3).await;

    rebooted.process.kill().await;
    reboots.go_away().await;
    submit(&api, "tiny-b", JOBS).await;
    let gone_at = db.now().await;
    within(away_for * 2, "the end of the reboot", async || {
        let gone_for = (db.now().await - gone_at).to_std().unwrap();
        if gone_for > away_for { Ok(()) } else { Err(format!("it has taken {gone_for:?}")) }
    })
    .await;
    stays.until(|log| log.completed >= JOBS as u64).await;
    submit(&api, "tiny-a", JOBS).await;

    reboots.come_back().await.unwrap();
    rebooted.process.start_again();
    db.every_job_ends().await;
    let done = "SELECT count(*) FROM job_done WHERE state = 'done' AND failures = 0";
    assert_eq!(db.value::<i64>(done).await, 4 * i64::try_from(JOBS).unwrap());
    db.every_job_has_one_room().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_reboots_loses_none_of_its_jobs_to_another_that_lacks_the_model() {
    one_of_two_hosts_reboots(Duration::from_secs(3)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes two minutes: a reboot that is longer than the grace of a missing model"]
async fn a_host_that_reboots_for_ninety_seconds_loses_none_of_its_jobs() {
    one_of_two_hosts_reboots(Duration::from_secs(90)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a good minute: the grace of a missing model"]
async fn a_job_whose_model_no_host_has_fails_after_a_grace_and_says_what_to_do() {
    let db = Db::fresh().await;
    let sim = Sim::start(Config::default()).await.unwrap();
    let _worker = Worker::start(&db, &sim.url(), &[]).await;
    let job = db.job(JobRequest { load_key: "nosuch:latest num_ctx=512".to_owned(), ..db.request() });
    db.accept_all(std::slice::from_ref(&job)).await;
    let failed = "SELECT error FROM job_done WHERE error_code = 'model_gone'";
    let error: String = within(Duration::from_secs(90), "the end of the grace", async || {
        db.values(failed).await.pop().ok_or("it waits")
    })
    .await;
    assert!(error.contains("run `ollama pull nosuch:latest`"), "{error}");
    assert_eq!(db.history(job.id).await, ["queued", "failed"]);
}
