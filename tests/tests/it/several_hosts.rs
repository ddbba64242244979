//! Hosts share one queue: none fails what another may still run, models settle on hosts, and a host goes on with the work of
//! one that has died.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::time::Duration;

use foreman_store::JobRequest;
use foreman_tests::{Api, Db, Worker, eventually, http, within};
use ollama_sim::{Config, Happening, Kind, Sim};
use serde_json::Value;

use crate::chat;

/// Jobs of each model.
const JOBS: usize = 40;

fn job(model: &str, nth: usize) -> Value {
    let mut job = chat(&format!("job {nth} sim:tokens=5 sim:token-delay=10ms"));
    job["model"] = model.into();
    job
}

async fn submit(api: &Api, model: &str, count: usize) {
    for nth in 0..count {
        api.submit(&job(model, nth)).await;
    }
}

/// The same for several models in one request, so that both hosts see all of the jobs at once.
async fn submit_together(api: &Api, models: &[&str], count: usize) {
    let mut lines = String::new();
    for nth in 0..count {
        for model in models {
            writeln!(lines, "{}", job(model, nth)).unwrap();
        }
    }
    let answer = http().post(format!("{}/jobs/batch", api.url)).body(lines).send().await.unwrap();
    let answer = answer.text().await.unwrap();
    assert_eq!(answer.matches("job_id").count(), count * models.len(), "{answer}");
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

/// Two Ollamas with these models, each with a worker, on one api.
async fn two_hosts(db: &Db, config: &Config, worker: &[(&str, &str)]) -> ([Sim; 2], Api, [Worker; 2]) {
    let sim = async || Sim::start(config.clone()).await.unwrap();
    let sims = [sim().await, sim().await];
    let api = Api::start(db, &[]).await;
    let one = Worker::start(db, &sims[0].url(), worker).await;
    let two = Worker::start(db, &sims[1].url(), worker).await;
    let published = "SELECT count(*) FROM host WHERE published_at IS NOT NULL AND holder IS NOT NULL";
    eventually("two hosts", async || match db.value::<i64>(published).await {
        2 => Ok(()),
        hosts => Err(format!("{hosts} have published")),
    })
    .await;
    // By the end of this job the two know of each other.
    api.submit(&chat("the first")).await;
    db.every_job_ends().await;
    (sims, api, [one, two])
}

/// How often each model was loaded on this host.
fn loads(sim: &Sim) -> BTreeMap<String, usize> {
    let mut loads = BTreeMap::new();
    for (happening, model) in sim.log().happenings() {
        if happening == Happening::Loaded {
            *loads.entry(model.to_owned()).or_default() += 1;
        }
    }
    loads
}

/// The bodies of the requests that have begun to run on this host.
fn bodies(sim: &Sim) -> BTreeSet<Vec<u8>> {
    sim.look(|log| {
        log.runs().iter().filter(|run| run.kind == Kind::Run).map(|run| run.body.to_vec()).collect()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn four_models_settle_on_two_hosts_and_nothing_runs_twice() {
    let db = Db::fresh().await;
    let models = ["tiny-a", "tiny-b", "tiny-c", "tiny-d"];
    let config = Config { load_delay: Duration::from_millis(300), ..Config::default() }.models(models);
    // A short quantum, so that the hosts change their models often.
    let (sims, api, _workers) = two_hosts(&db, &config, &[("FOREMAN_LOAD_SHARE", "40%")]).await;
    // A host that is idle rightly helps with a model while there is no other.
    submit_together(&api, &models, 60).await;
    sims[0].until(|log| log.completed >= 60).await;
    sims[1].until(|log| log.completed >= 60).await;
    let settled = [loads(&sims[0]), loads(&sims[1])];
    let twice: Vec<_> = settled[0].keys().filter(|model| settled[1].contains_key(*model)).collect();
    assert!(twice.is_empty(), "loaded on both hosts while both were busy: {settled:?}");
    db.every_job_ends().await;
    let completions = [sims[0].log().completions(), sims[1].log().completions()];
    assert_eq!(completions.iter().map(HashMap::len).sum::<usize>(), 4 * 60 + 1, "each job ran on one host");
    assert!(completions.iter().flat_map(HashMap::values).all(|&count| count == 1));
    db.every_job_has_one_room().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_idle_helps_with_a_long_queue_and_not_with_a_short_one() {
    let db = Db::fresh().await;
    let config = Config { load_delay: Duration::from_millis(500), ..Config::default() }.models(["tiny-a"]);
    let (sims, api, _workers) = two_hosts(&db, &config, &[]).await;
    submit(&api, "tiny-a", 6).await;
    db.every_job_ends().await;
    assert_eq!(sims.iter().map(|sim| sim.log().loads).sum::<u64>(), 1, "the work is shorter than a load");
    submit(&api, "tiny-a", 200).await;
    db.every_job_ends().await;
    assert_eq!([sims[0].log().loads, sims[1].log().loads], [1, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_jobs_of_a_host_that_dies_with_its_worker_go_on_at_the_other() {
    let db = Db::fresh().await;
    let config = Config { parallel: 2, load_delay: Duration::from_millis(100), ..Config::default() };
    let worker = [("FOREMAN_WORKER_SLOTS", "2"), ("FOREMAN_LEASE_TTL", "2s")];
    let ([dies, lives], api, [mut killed, _other]) =
        two_hosts(&db, &config.models(["tiny-a", "tiny-b"]), &worker).await;
    for model in ["tiny-a", "tiny-b"] {
        submit(&api, model, 80).await;
    }
    dies.until(|log| log.completed >= 20).await;
    lives.until(|log| log.completed >= 20).await;
    killed.process.kill().await;
    dies.go_away().await;
    let (at_one, at_other) = (bodies(&dies), bodies(&lives));
    assert!(at_one.is_disjoint(&at_other), "a job ran on both hosts while both lived");

    db.every_job_ends().await;
    db.every_job_has_one_room().await;
    let done = "SELECT count(*) FROM job_done WHERE state = 'done' AND failures = 0";
    assert_eq!(db.value::<i64>(done).await, 161, "nothing is lost");
    let again = bodies(&lives).intersection(&at_one).count() as i64;
    let rescued: i64 = db.value("SELECT count(*) FROM job_done WHERE rescues > 0").await;
    assert!(again <= rescued, "{again} ran again, and {rescued} were in the hands of the dead worker");
    let jobs = lives.log().completions();
    assert!(jobs.values().all(|&count| count == 1), "{jobs:?}");
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
