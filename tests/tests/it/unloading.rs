//! Models that an operator has unloaded by hand, with real workers: what runs ends first, the next job loads the model again,
//! and whoever dies in between, the model goes.

use foreman_tests::{Api, Db, Worker, eventually, http};
use ollama_sim::{Config, Fault, Happening, Kind, Log, Moment, Sim, Trouble};
use serde_json::{Value, json};

use crate::chat;
use crate::house::House;

async fn unload(api: &Api, model: &str) -> (u16, Value) {
    let answer = http().post(format!("{}/models/{model}/unload", api.url)).send().await.unwrap();
    (answer.status().as_u16(), serde_json::from_str(&answer.text().await.unwrap()).unwrap())
}

/// Waits until no host is to unload anything any more.
async fn is_carried_out(db: &Db) {
    eventually("an unload that is carried out", async || {
        match db.value::<i64>("SELECT count(*) FROM host_unload").await {
            0 => Ok(()),
            left => Err(format!("{left} are left")),
        }
    })
    .await;
}

/// What is loaded, as `GET /hosts` tells it of the only host.
async fn is_told_as_loaded(api: &Api, models: Value) {
    eventually("what is loaded", async || {
        let told = api.get("/hosts").await["data"][0]["resident"].clone();
        if told == models { Ok(()) } else { Err(told) }
    })
    .await;
}

/// The loads and evictions of a model, in order.
fn comings_and_goings(log: &Log, model: &str) -> Vec<Happening> {
    let happenings = log.happenings().into_iter().filter(|(_, of)| *of == model);
    happenings.map(|(what, _)| what).filter(|what| *what != Happening::LoadStarted).collect()
}

fn unloads(log: &Log) -> usize {
    log.records.iter().filter(|record| record.kind == Kind::Unload).count()
}

async fn every_job_was_done_at_the_first_try(db: &Db, jobs: i64) {
    db.every_job_ends().await;
    let done = "SELECT count(*) FROM job_done WHERE state = 'done' AND failures = 0 AND rescues = 0";
    assert_eq!(db.value::<i64>(done).await, jobs);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_unloaded_by_hand_and_its_next_job_loads_it_again() {
    let house = House::start(&[], &[]).await;
    house.api.submit(&chat("first")).await;
    house.db.every_job_ends().await;
    is_told_as_loaded(&house.api, json!(["tiny-a:latest"])).await;

    let host: String = house.db.value("SELECT id FROM host").await;
    let answer = (202, json!({ "model": "tiny-a:latest", "hosts": [host] }));
    assert_eq!(unload(&house.api, "Tiny-A").await, answer);
    is_carried_out(&house.db).await;
    assert_eq!(house.sim.resident(), [""; 0]);
    is_told_as_loaded(&house.api, json!([])).await;
    eventually("Ollama's own list of what is loaded", async || {
        let listed = house.api.get("/api/ps").await;
        if listed["models"] == json!([]) { Ok(()) } else { Err(listed) }
    })
    .await;

    house.api.submit(&chat("second")).await;
    every_job_was_done_at_the_first_try(&house.db, 2).await;
    use Happening::{Evicted, Loaded};
    assert_eq!(comings_and_goings(&house.sim.log(), "tiny-a:latest"), [Loaded, Evicted, Loaded]);
    assert_eq!(unloads(&house.sim.log()), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unload_waits_for_what_runs_and_the_jobs_after_it_for_the_unload() {
    let house = House::start(&[], &[("FOREMAN_WORKER_SLOTS", "1")]).await;
    // It runs for twice as long as the worker needs to hear of an unload whose wake-up was lost.
    house.api.submit(&chat("long sim:tokens=80 sim:token-delay=50ms")).await;
    house.sim.until(|log| log.running() == 1).await;
    assert_eq!(unload(&house.api, "tiny-a").await.0, 202);
    for nth in 0..3 {
        house.api.submit(&chat(&format!("after that {nth}"))).await;
    }
    is_carried_out(&house.db).await;
    every_job_was_done_at_the_first_try(&house.db, 4).await;
    let log = house.sim.log();
    let asked = log.records.iter().find(|record| record.kind == Kind::Unload).unwrap();
    let (long, after) = log.runs().split_first().map(|(long, after)| (*long, after.to_vec())).unwrap();
    assert!(long.ended.unwrap() <= asked.arrived, "{long:?}, {asked:?}");
    assert!(after.iter().all(|run| run.started.unwrap() > asked.ended.unwrap()), "{after:?}");
    use Happening::{Evicted, Loaded};
    assert_eq!(comings_and_goings(&log, "tiny-a:latest"), [Loaded, Evicted, Loaded]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_waits_for_an_unload_is_told_its_place() {
    let house = House::start(&[], &[("FOREMAN_WORKER_SLOTS", "1")]).await;
    house.api.submit(&chat("so that a run was measured")).await;
    house.db.every_job_ends().await;
    house.sim.fault(Fault::new(Trouble::Hang, Moment::Tokens(2)).once());
    let running = house.api.submit(&chat("it runs until it is cancelled")).await;
    house.sim.until(|log| log.running() == 1).await;
    assert_eq!(unload(&house.api, "tiny-a").await.0, 202);
    let waiting = house.api.submit(&chat("after that")).await;
    eventually("what the job waits for", async || {
        let job = house.api.get(&format!("/jobs/{waiting}")).await;
        let why = job["waiting_for"].as_str().unwrap_or_default();
        let is_told = why == "tiny-a:latest is loaded again for it, after its jobs that run now";
        if is_told && job["position"] == 1 && job["eta"].is_string() { Ok(()) } else { Err(job) }
    })
    .await;
    let cancel = http().post(format!("{}/jobs/{running}/cancel", house.api.url)).send().await.unwrap();
    assert!(cancel.status().is_success());
    is_carried_out(&house.db).await;
    every_job_was_done_at_the_first_try(&house.db, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unload_disturbs_no_other_model_that_runs() {
    let config = Config { max_loaded: 2, parallel: 2, ..Config::default() };
    let settings = [("FOREMAN_WORKER_SLOTS", "2"), ("FOREMAN_MODELS_TOGETHER", "2")];
    let house = House::before(config, &[], &settings).await;
    house.api.submit(&chat("first")).await;
    house.db.every_job_ends().await;
    let mut other = chat("it runs until it is cancelled");
    other["model"] = "tiny-b".into();
    house.sim.fault(Fault::new(Trouble::Hang, Moment::Tokens(2)).for_model("tiny-b"));
    let other = house.api.submit(&other).await;
    house.sim.until(|log| log.running() == 1).await;
    assert_eq!(unload(&house.api, "tiny-a").await.0, 202);
    is_carried_out(&house.db).await;
    assert_eq!((house.sim.resident(), house.sim.look(Log::running)), (vec!["tiny-b:latest".to_owned()], 1));
    let cancel = http().post(format!("{}/jobs/{other}/cancel", house.api.url)).send().await.unwrap();
    assert!(cancel.status().is_success());
    every_job_was_done_at_the_first_try(&house.db, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_somebody_loaded_around_foreman_goes_too_and_one_that_is_not_loaded_is_left_alone() {
    let house = House::start(&[], &[]).await;
    let body = json!({ "model": "tiny-b" }).to_string();
    let around = http().post(format!("{}/api/generate", house.sim.url())).body(body).send().await.unwrap();
    assert_eq!((around.status().as_u16(), house.sim.resident()), (200, vec!["tiny-b:latest".to_owned()]));
    assert_eq!(unload(&house.api, "tiny-tools").await.0, 202);
    is_carried_out(&house.db).await;
    assert_eq!(house.sim.resident(), ["tiny-b:latest"]);
    assert_eq!(unload(&house.api, "tiny-b").await.0, 202);
    is_carried_out(&house.db).await;
    assert_eq!(house.sim.resident(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_holder_unloads_what_a_worker_was_asked_to_that_was_killed() {
    let db = Db::fresh().await;
    let sim = Sim::start(Config::default()).await.unwrap();
    let api = Api::start(&db, &[]).await;
    let mut worker = Worker::start(&db, &sim.url(), &[("FOREMAN_LEASE_TTL", "2s")]).await;
    // It hangs for the first worker alone.
    sim.fault(Fault::new(Trouble::Hang, Moment::Tokens(2)).once());
    api.submit(&chat("a job")).await;
    sim.until(|log| log.running() == 1).await;
    assert_eq!(unload(&api, "tiny-a").await.0, 202);
    worker.process.kill().await;
    assert_eq!(db.value::<i64>("SELECT count(*) FROM host_unload").await, 1);
    assert_eq!(sim.look(unloads), 0);

    worker.process.start_again();
    is_carried_out(&db).await;
    db.every_job_ends().await;
    let done = "SELECT count(*) FROM job_done WHERE state = 'done' AND failures = 0 AND rescues = 1";
    assert_eq!(db.value::<i64>(done).await, 1);
    use Happening::{Evicted, Loaded};
    assert_eq!(comings_and_goings(&sim.log(), "tiny-a:latest"), [Loaded, Evicted, Loaded]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ollama_that_hangs_with_an_unload_keeps_nobody_from_working() {
    let house = House::start(&[], &[]).await;
    house.api.submit(&chat("first")).await;
    house.db.every_job_ends().await;
    house.sim.fault(Fault::new(Trouble::Hang, Moment::Arrival).for_body_with(r#""keep_alive":0"#));
    assert_eq!(unload(&house.api, "tiny-a").await.0, 202);
    house.sim.until(|log| log.requests.contains_key("/api/generate")).await;
    for model in ["tiny-b", "tiny-a"] {
        let mut job = chat(&format!("another for {model}"));
        job["model"] = model.into();
        house.api.submit(&job).await;
    }
    every_job_was_done_at_the_first_try(&house.db, 3).await;
    assert_eq!(house.db.value::<i64>("SELECT count(*) FROM host_unload").await, 1, "it is tried again");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_model_is_refused_a_client_may_not_unload_any_and_nobody_is_asked_for_one_of_the_cloud() {
    let config = Config::default().models(["tiny-a", "far:cloud"]);
    let house = House::before(config, &[], &[]).await;
    for model in ["nosuch", "no%2Fsuch%2F%2Fname"] {
        let (status, refused) = unload(&house.api, model).await;
        assert_eq!((status, &refused["code"]), (404, &json!("unknown_model")), "{refused}");
    }
    // Where no keys are needed, only callers of this machine may operate.
    let request = http().post(format!("{}/models/tiny-a/unload", house.api.url));
    let answer = request.header("x-forwarded-for", "192.0.2.7").send().await.unwrap();
    assert_eq!(answer.status(), 403);
    assert!(answer.text().await.unwrap().contains("administrators_only"));
    let nobody = json!({ "model": "far:cloud", "hosts": [] });
    assert_eq!(unload(&house.api, "far:cloud").await, (202, nobody));
    assert_eq!(house.db.value::<i64>("SELECT count(*) FROM host_unload").await, 0);
}
