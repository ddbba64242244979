//! Drained hosts with real workers: what runs there ends, nothing new begins, and the rest of the queue goes on elsewhere.

use std::time::Duration;

use foreman_tests::{Api, Db, Worker, eventually, http};
use ollama_sim::{Config, Sim};
use serde_json::{Value, json};

use crate::chat;

/// `action` is `drain` or `resume`. Returns the status and the answer.
async fn ask(api: &Api, host: &str, action: &str) -> (u16, Value) {
    let answer = http().post(format!("{}/hosts/{host}/{action}", api.url)).send().await.unwrap();
    let status = answer.status().as_u16();
    (status, serde_json::from_str(&answer.text().await.unwrap()).unwrap())
}

async fn drain(api: &Api, host: &str) -> Value {
    let (status, answer) = ask(api, host, "drain").await;
    assert_eq!(status, 200, "{answer}");
    assert!(answer["drained_at"].is_string(), "{answer}");
    answer
}

async fn resume(api: &Api, host: &str) {
    let (status, answer) = ask(api, host, "resume").await;
    assert_eq!((status, &answer["drained_at"]), (200, &Value::Null), "{answer}");
}

/// The host as `GET /hosts` shows it.
async fn seen(api: &Api, host: &str) -> Value {
    let hosts = api.get("/hosts").await["data"].clone();
    hosts.as_array().unwrap().iter().find(|seen| seen["host_id"] == host).cloned().unwrap_or_default()
}

/// A worker that holds this host.
async fn worker(db: &Db, api: &Api, sim: &Sim, host: &str, settings: &[(&str, &str)]) -> Worker {
    let worker = Worker::start(db, &sim.url(), &[settings, &[("FOREMAN_HOST_ID", host)]].concat()).await;
    eventually("a host that is held", async || match seen(api, host).await {
        held if held["worker"].is_string() && held["reachable"] == true => Ok(()),
        other => Err(other),
    })
    .await;
    worker
}

async fn submit(api: &Api, count: usize, orders: &str) {
    for nth in 0..count {
        api.submit(&chat(&format!("job {nth} {orders}"))).await;
    }
}

/// Waits until the drained host has nothing left to do.
async fn is_idle(db: &Db, api: &Api, host: &str) {
    let leases = format!(
        "SELECT count(*) FROM job_lease l JOIN worker w ON w.id = l.worker_id WHERE w.host_id = '{host}'"
    );
    eventually("a host without jobs", async || match db.value::<i64>(&leases).await {
        0 => Ok(()),
        left => Err(format!("{left} are left")),
    })
    .await;
    assert_eq!(seen(api, host).await["running"], 0);
}

async fn every_job_was_done_at_the_first_try(db: &Db, jobs: i64) {
    db.every_job_ends().await;
    db.every_job_has_one_room().await;
    let done = "SELECT count(*) FROM job_done WHERE state = 'done' AND failures = 0 AND rescues = 0";
    assert_eq!(db.value::<i64>(done).await, jobs);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_drained_in_the_middle_of_its_work_ends_what_runs_and_leaves_the_rest_to_another() {
    let db = Db::fresh().await;
    let start = async || Sim::start(Config { parallel: 2, ..Config::default() }).await.unwrap();
    let (stays, drained) = (start().await, start().await);
    let api = Api::start(&db, &[]).await;
    let slots = [("FOREMAN_WORKER_SLOTS", "2")];
    let _one = worker(&db, &api, &stays, "one", &slots).await;
    let _two = worker(&db, &api, &drained, "two", &slots).await;
    // Runs of this length are those for which a worker holds a job ahead of its slot.
    submit(&api, 120, "sim:tokens=5 sim:token-delay=10ms").await;
    drained.until(|log| log.completed >= 10).await;
    // Two who drain at once do not get in each other's way.
    tokio::join!(drain(&api, "two"), drain(&api, "two"));
    let claimed_late = "SELECT count(*) FROM job_lease l JOIN worker w ON w.id = l.worker_id
                        JOIN host h ON h.id = w.host_id WHERE l.claimed_at > h.drained_at";
    assert_eq!(db.value::<i64>(claimed_late).await, 0);
    is_idle(&db, &api, "two").await;
    eventually("a queue in which the host is drained", async || {
        let hosts = api.get("/queue").await["hosts"].clone();
        let two = &hosts[1];
        let is_told =
            two["is_drained"] == true && two["next"] == json!([]) && hosts[0]["is_drained"] == false;
        if is_told { Ok(()) } else { Err(hosts) }
    })
    .await;
    let runs = drained.look(|log| log.runs().len());
    submit(&api, 20, "sim:tokens=2").await;
    every_job_was_done_at_the_first_try(&db, 140).await;
    assert_eq!(drained.look(|log| log.runs().len()), runs, "nothing has begun there since");
    let completions = [stays.log().completions(), drained.log().completions()];
    assert!(completions.iter().flat_map(|of| of.values()).all(|&count| count == 1), "nothing ran twice");

    resume(&api, "two").await;
    submit(&api, 60, "sim:tokens=5 sim:token-delay=10ms").await;
    drained.until(|log| log.runs().len() > runs).await;
    every_job_was_done_at_the_first_try(&db, 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_under_way_and_its_jobs_end_and_a_standby_or_a_restart_keep_the_host_drained() {
    let db = Db::fresh().await;
    let config = Config { parallel: 2, load_delay: Duration::from_millis(800), ..Config::default() };
    let sim = Sim::start(config).await.unwrap();
    let api = Api::start(&db, &[]).await;
    let mut first = worker(&db, &api, &sim, "only", &[("FOREMAN_LEASE_TTL", "2s")]).await;
    submit(&api, 4, "sim:tokens=2").await;
    eventually("a load", async || {
        match db.value::<i64>("SELECT count(*) FROM job_lease WHERE phase = 'loading'").await {
            0 => Err("none"),
            _ => Ok(()),
        }
    })
    .await;
    drain(&api, "only").await;
    is_idle(&db, &api, "only").await;
    let done = "SELECT count(*) FROM job_done WHERE state = 'done' AND attempt = 1";
    assert_eq!(db.value::<i64>(done).await, 1, "its load was not broken off");
    assert_eq!(sim.log().loads, 1);

    let standby = worker(&db, &api, &sim, "only", &[("FOREMAN_LEASE_TTL", "2s")]).await;
    first.process.kill().await;
    let taken = "SELECT count(*) FROM host WHERE fence > 1";
    eventually("a takeover", async || match db.value::<i64>(taken).await {
        1 => Ok(()),
        _ => Err("the first still has it"),
    })
    .await;
    first.process.start_again();
    first.ready().await;
    standby.ready().await;
    assert!(seen(&api, "only").await["drained_at"].is_string());
    // A worker that asked would get nothing. That nobody counts the time as idle tells that it does not even want to.
    let idle = standby.metric("foreman_gpu_idle_seconds_total").await;
    assert_eq!(db.value::<i64>("SELECT count(*) FROM job_ready").await, 3, "they wait, and do not fail");
    resume(&api, "only").await;
    every_job_was_done_at_the_first_try(&db, 4).await;
    assert!(idle < 0.5, "{idle} s of idle time on a drained host");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_nobody_knows_is_refused_with_the_known_ones_and_a_client_may_not_drain_any() {
    let db = Db::fresh().await;
    let sim = Sim::start(Config::default()).await.unwrap();
    let api = Api::start(&db, &[]).await;
    let (status, refused) = ask(&api, "elsewhere", "drain").await;
    assert_eq!((status, refused["code"].as_str()), (404, Some("no_such_host")), "{refused}");
    assert!(refused["error"].as_str().unwrap().contains("start a foreman-worker"), "{refused}");
    let _worker = worker(&db, &api, &sim, "http://gpu/1", &[]).await;
    let (status, refused) = ask(&api, "elsewhere", "resume").await;
    assert_eq!(status, 404);
    assert!(refused["error"].as_str().unwrap().contains("there are http://gpu/1"), "{refused}");
    drain(&api, "http:%2F%2Fgpu%2F1").await;
    assert_eq!(seen(&api, "http://gpu/1").await["models"][0], "tiny-a:latest");
    for nobodys in ["%00", "%ff", "", "http:%2F%2FGPU%2F1"] {
        let (status, refused) = ask(&api, nobodys, "drain").await;
        assert_eq!((status, refused["code"].as_str()), (404, Some("no_such_host")), "{nobodys}: {refused}");
    }

    // Where no keys are needed, only callers of this machine may operate.
    let request = http().post(format!("{}/hosts/http:%2F%2Fgpu%2F1/resume", api.url));
    let answer = request.header("x-forwarded-for", "192.0.2.7").send().await.unwrap();
    assert_eq!(answer.status(), 403);
    assert!(answer.text().await.unwrap().contains("administrators_only"));
    assert!(seen(&api, "http://gpu/1").await["drained_at"].is_string());
}
