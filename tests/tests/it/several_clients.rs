//! Clients, and the users of a client, share one GPU: what one of them asks for does not keep the others waiting, and
//! needs no load that another runner could save.

use std::cmp::Ordering;
use std::time::Duration;

use foreman_store::{ClientId, JobRequest, NewJob};
use foreman_tests::{Api, Db, Worker, eventually, http};
use ollama_sim::{Config, Happening, Record, Sim};
use serde_json::{Value, json};

use crate::api::publish;
use crate::chat;

/// The longest context that the simulator's `tiny-a` has.
const LONGEST_CONTEXT: i64 = 2_048;

async fn done(api: &Api, id: &str) -> Value {
    eventually("the end of a job", async || {
        let job = api.get(&format!("/jobs/{id}?wait=10")).await;
        if job["state"] == "done" { Ok(job) } else { Err(job["state"].clone()) }
    })
    .await
}

/// How many jobs of others ended between the submission of this job and its end.
async fn went_before(db: &Db, id: &str) -> i64 {
    let before = format!(
        "SELECT count(*) FROM job_done d, job j
         WHERE j.id = '{}' AND d.job_id <> j.id AND d.completed_at > j.created_at
           AND d.completed_at < (SELECT completed_at FROM job_done WHERE job_id = j.id)",
        id.parse::<foreman_store::JobId>().unwrap().uuid()
    );
    db.value(&before).await
}

fn generating(db: &Db, prompt: &str) -> JobRequest {
    JobRequest {
        load_key: "tiny-a:latest".to_owned(),
        body: json!({"model": "tiny-a", "prompt": prompt, "stream": true}).to_string(),
        path: "/api/generate".to_owned(),
        ..db.request()
    }
}

/// Queues three hundred jobs of `ada`, each of which needs a load of its own, and then the job of `another` for another model.
/// Tells how many of them went before that one.
async fn before_another(another: impl AsyncFn(&Db, JobRequest) -> JobRequest) -> i64 {
    let db = Db::fresh().await;
    let config = Config { load_delay: Duration::from_millis(200), ..Config::default() };
    let sim = Sim::start(config.models(["tiny-a", "tiny-b"])).await.unwrap();
    let _worker = Worker::start(&db, &sim.url(), &[("FOREMAN_MAX_MODEL_WAIT", "10s")]).await;
    let varied = (1..=300).map(|num_batch| JobRequest {
        load_key: format!("tiny-a:latest num_batch={num_batch}"),
        body: format!(
            r#"{{"model":"tiny-a","prompt":"sim:tokens=1 sim:token-delay=10ms","options":{{"num_batch":{num_batch}}},"stream":true}}"#
        ),
        path: "/api/generate".to_owned(),
        user: "ada".parse().unwrap(),
        ..db.request()
    });
    db.accept_all(&varied.map(|request| db.job(request)).collect::<Vec<_>>()).await;
    // Its line is long, and its jobs run one by one.
    sim.until(|log| log.completed >= 3).await;
    let request = for_model("tiny-b", generating(&db, "hello"));
    let job = db.job(another(&db, request).await);
    let id = db.accept_all(&[job]).await[0];
    let is_done = format!("SELECT count(*) FROM job_done WHERE job_id = '{}'", id.uuid());
    eventually("the end of the job", async || {
        if db.value::<i64>(&is_done).await == 1 { Ok(()) } else { Err("it waits or runs") }
    })
    .await;
    went_before(&db, &id.to_string()).await
}

fn for_model(model: &str, request: JobRequest) -> JobRequest {
    let body = request.body.replace("tiny-a", model);
    let load_key = format!("{model}:latest");
    JobRequest { model: model.to_owned(), model_label: load_key.clone(), load_key, body, ..request }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_varies_options_costs_another_about_one_turn() {
    let before = before_another(async |db, request| {
        let client = db.new_client("another", false).await.client;
        JobRequest { client, ..request }
    });
    let before = before.await;
    assert!(before <= 5, "{before} of 300 jobs went first");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_that_varies_options_costs_another_user_about_one_turn() {
    let before = before_another(async |_, request| JobRequest { user: "bob".parse().unwrap(), ..request });
    let before = before.await;
    assert!(before <= 5, "{before} of 300 jobs went first");
}

/// Four clients have jobs for three models each all the time. Before that every model has been loaded and has run.
#[tokio::test(flavor = "multi_thread")]
async fn no_client_waits_longer_than_the_queue_tells() {
    const MODELS: [&str; 3] = ["tiny-a", "tiny-b", "tiny-c"];
    const EACH: usize = 10;
    let db = Db::fresh().await;
    let config = Config { load_delay: Duration::from_millis(100), ..Config::default() };
    let sim = Sim::start(config.models(MODELS)).await.unwrap();
    let api = Api::start(&db, &[]).await;
    let _worker = Worker::start(&db, &sim.url(), &[("FOREMAN_LOAD_SHARE", "30%")]).await;
    let mut clients = vec![db.client];
    for name in ["two", "three", "four"] {
        clients.push(db.new_client(name, false).await.client);
    }
    let job = |client: usize, model: &str| {
        let prompt = format!("client {client} sim:tokens=2 sim:token-delay=10ms");
        let request = for_model(model, generating(&db, &prompt));
        db.job(JobRequest { client: clients[client], ..request })
    };
    db.accept_all(&MODELS.map(|model| job(0, model))).await;
    db.every_job_ends().await;
    let measured = sim.log().runs().len();
    let jobs =
        (0..EACH).flat_map(|_| (0..clients.len()).flat_map(|client| MODELS.map(|model| (client, model))));
    let jobs: Vec<NewJob> = jobs.map(|(client, model)| job(client, model)).collect();
    let all = i64::try_from(jobs.len() + measured).unwrap();
    db.accept_all(&jobs).await;
    let mut bound = 0;
    eventually("the end of every job", async || {
        let told = api.get("/queue").await["hosts"][0]["longest_wait_ms"].as_u64();
        bound = bound.max(told.unwrap_or_default());
        let done = db.value::<i64>("SELECT count(*) FROM job_done").await;
        if done == all { Ok(()) } else { Err(format!("{done} of {all}")) }
    })
    .await;
    let log = sim.log();
    let runs = log.runs().split_off(measured);
    // From when all of them could have begun on, or from its last begin until its next one.
    let mut waits_since = vec![runs[0].started.unwrap(); clients.len()];
    for run in runs {
        let body = str::from_utf8(&run.body).unwrap();
        let client: usize = body.split("client ").nth(1).unwrap()[..1].parse().unwrap();
        let started = run.started.unwrap();
        let waited = (started - waits_since[client]).as_millis();
        assert!(waited <= u128::from(bound), "client {client} waited {waited} ms, and {bound} ms were told");
        waits_since[client] = started;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_with_forty_contexts_and_jobs_with_none_need_two_loads() {
    let db = Db::fresh().await;
    let config = Config { load_delay: Duration::from_millis(100), ..Config::default() };
    let automatic = config.context_length;
    let sim = Sim::start(config.models(["tiny-a"])).await.unwrap();
    let api = Api::start(&db, &[]).await;
    let mut jobs = Vec::new();
    let worker = Worker::start(&db, &sim.url(), &[]).await;
    for nth in 0..200 {
        let mut job = chat(&format!("job {nth}"));
        if nth % 5 != 0 {
            job["options"] = json!({"num_ctx": 512 + (nth % 40) * 192, "seed": nth});
        }
        jobs.push(api.submit(&job).await);
    }
    db.every_job_ends().await;
    let is_done: i64 = db.value("SELECT count(*) FROM job_done WHERE state = 'done' AND failures = 0").await;
    assert_eq!(is_done, 200);
    let loads = sim.log().loads;
    // The first jobs came alone, before anybody knew what the others would ask for.
    assert!(loads <= 3, "{loads} loads");
    assert!(worker.metric("foreman_context_fitted_total").await > 50.0);
    let log = sim.log();
    for record in log.runs() {
        let body: Value = serde_json::from_slice(&record.body).unwrap();
        let nth = body["messages"][0]["content"].as_str().unwrap().trim_start_matches("job ");
        assert_eq!(
            body["options"].get("seed").map(Value::to_string),
            (nth.parse::<u64>().unwrap() % 5 != 0).then(|| nth.to_owned())
        );
        let job = api.get(&format!("/jobs/{}", jobs[nth.parse::<usize>().unwrap()])).await;
        let sent = body["options"].get("num_ctx").and_then(Value::as_i64).unwrap_or(automatic);
        assert_eq!(job["context"], sent.min(LONGEST_CONTEXT), "job {nth}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_loads_of_first_come_order_are_counted_as_ollama_makes_them() {
    let config = Config { load_delay: Duration::from_millis(50), ..Config::default() };
    let sims = [(); 2].map(|()| Sim::start(config.clone().models(["tiny-a", "tiny-b"])));
    let [straight, sim] = futures_util::future::try_join_all(sims).await.unwrap().try_into().ok().unwrap();
    let jobs: Vec<Value> = [
        ("tiny-a", json!({})),
        ("tiny-b", json!({})),
        ("tiny-a", json!({"num_ctx": 1024})),
        ("tiny-a", json!({})),
    ]
    .into_iter()
    .cycle()
    .take(60)
    .enumerate()
    .map(
        |(nth, (model, options))| json!({"model": model, "prompt": format!("job {nth}"), "options": options}),
    )
    .collect();
    for job in &jobs {
        let url = format!("{}/api/generate", straight.url());
        let answer = http().post(url).body(job.to_string()).send().await.unwrap().error_for_status().unwrap();
        answer.bytes().await.unwrap();
    }
    let db = Db::fresh().await;
    publish(&db).await;
    db.run("INSERT INTO host_model VALUES ('gpu', 'tiny-b:latest', 'tiny-b:latest', true)").await;
    let api = Api::start(&db, &[]).await;
    for job in &jobs {
        api.submit(job).await;
    }
    let worker = Worker::start(&db, &sim.url(), &[]).await;
    db.every_job_ends().await;
    let made = sim.log().loads;
    assert!(made <= 8, "{made} loads");
    assert_eq!(worker.metric("foreman_loads_total").await.total_cmp(&(made as f64)), Ordering::Equal);
    let would_be = worker.metric("foreman_first_come_loads_total").await;
    assert_eq!(would_be.total_cmp(&(straight.log().loads as f64)), Ordering::Equal, "{would_be}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_fitting_off_each_length_goes_to_ollama_as_it_came() {
    let db = Db::fresh().await;
    let sim = Sim::start(Config::default().models(["tiny-a"])).await.unwrap();
    let api = Api::start(&db, &[]).await;
    let _worker = Worker::start(&db, &sim.url(), &[("FOREMAN_CONTEXT_FIT", "off")]).await;
    for num_ctx in [512, 1024, 2048] {
        let mut job = chat("hello");
        job["options"] = json!({"num_ctx": num_ctx});
        let id = api.submit(&job).await;
        assert_eq!(done(&api, &id).await["context"], num_ctx);
    }
    assert_eq!(sim.log().loads, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_longer_context_is_loaded_than_is_allowed_but_for_a_job_that_asks_for_it() {
    let db = Db::fresh().await;
    let sim = Sim::start(Config::default().models(["tiny-a"])).await.unwrap();
    let api = Api::start(&db, &[]).await;
    let _worker = Worker::start(&db, &sim.url(), &[("FOREMAN_CONTEXT_MAX", "700")]).await;
    // Without the setting both would get 1,024.
    for (asked, got) in [(600, 700), (900, 900)] {
        let mut job = chat("hello");
        job["options"] = json!({"num_ctx": asked});
        let id = api.submit(&job).await;
        assert_eq!(done(&api, &id).await["context"], got);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_share_the_time_of_the_gpu_and_not_the_number_of_jobs() {
    let db = Db::fresh().await;
    let sim = Sim::start(Config::default().models(["tiny-a"])).await.unwrap();
    let another = db.new_client("another", false).await.client;
    let long = (0..20).map(|nth| generating(&db, &format!("{nth} sim:tokens=10 sim:token-delay=15ms")));
    let short = (0..300).map(|nth| JobRequest {
        client: another,
        ..generating(&db, &format!("{nth} sim:tokens=1 sim:token-delay=15ms"))
    });
    let jobs: Vec<NewJob> = long.chain(short).map(|request| db.job(request)).collect();
    db.accept_all(&jobs).await;
    let _worker = Worker::start(&db, &sim.url(), &[]).await;
    let long_ones = format!("SELECT count(*) FROM job_done WHERE client_id = '{}'", db.client.uuid());
    eventually("the tenth long job", async || match db.value::<i64>(&long_ones).await {
        ended if ended >= 10 => Ok(()),
        ended => Err(format!("{ended} have ended")),
    })
    .await;
    let short_ones: i64 = db
        .value(&format!(
            "SELECT count(*) FROM job_done WHERE client_id = '{}' AND completed_at <
             (SELECT max(completed_at) FROM (SELECT completed_at FROM job_done WHERE client_id = '{}' ORDER BY 1 LIMIT 10) t)",
            another.uuid(),
            db.client.uuid()
        ))
        .await;
    // A long job takes as long as ten short ones, but each job costs a little besides.
    assert!((30..=130).contains(&short_ones), "{short_ones} short jobs beside 10 long ones");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_at_its_ceiling_waits_for_its_own_jobs_and_leaves_slots_to_others() {
    let db = Db::fresh().await;
    let sim = Sim::start(Config { parallel: 4, ..Config::default() }.models(["tiny-a"])).await.unwrap();
    let another = db.new_client("another", false).await.client;
    let of = |client: ClientId, count: usize| {
        let one = |nth| JobRequest {
            client,
            ..generating(&db, &format!("{client} {nth} sim:tokens=1 sim:token-delay=10ms"))
        };
        (0..count).map(one).map(|request| db.job(request)).collect::<Vec<_>>()
    };
    db.accept_all(&of(db.client, 20)).await;
    db.accept_all(&of(another, 40)).await;
    db.run(&format!("UPDATE client SET max_running = 2 WHERE id = '{}'", another.uuid())).await;
    let _worker = Worker::start(&db, &sim.url(), &[("FOREMAN_WORKER_SLOTS", "4")]).await;
    db.every_job_ends().await;
    let log = sim.log();
    let runs = log.runs();
    let whose = |run: &Record| String::from_utf8_lossy(&run.body).contains(&another.to_string());
    for run in &runs {
        let beside = runs
            .iter()
            .filter(|other| whose(other) && other.started <= run.started && run.started < other.ended);
        assert!(beside.count() <= 2, "more than two run at the same time");
    }
    let first = runs.iter().filter(|run| whose(run)).count();
    assert_eq!((first, runs.len()), (40, 60));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_past_its_budget_goes_last() {
    let db = Db::fresh().await;
    let sim = Sim::start(Config::default().models(["tiny-a"])).await.unwrap();
    let another = db.new_client("another", false).await.client;
    let spent = db.new_client("spent", false).await.client;
    let of = |client: ClientId, count: usize| {
        let one = |nth| JobRequest {
            client,
            ..generating(&db, &format!("{client} {nth} sim:tokens=1 sim:token-delay=5ms"))
        };
        (0..count).map(one).map(|request| db.job(request)).collect::<Vec<_>>()
    };
    db.accept_all(&of(spent, 10)).await;
    db.accept_all(&of(another, 30)).await;
    let id = spent.uuid();
    db.run(&format!("UPDATE client SET gpu_seconds_a_day = 60 WHERE id = '{id}'")).await;
    db.run(&format!(
        "INSERT INTO usage_hour VALUES ('{id}', date_trunc('hour', now()), '', 'tiny-a:latest', 1, 0, 0, 0, 61, 0, 0, 0)"
    ))
    .await;
    let _worker = Worker::start(&db, &sim.url(), &[]).await;
    db.every_job_ends().await;
    let log = sim.log();
    let is_other = |run: &&Record| String::from_utf8_lossy(&run.body).contains(&another.to_string());
    let first = log.runs().iter().take(30).filter(|run| is_other(run)).count();
    assert_eq!(first, 30, "none of the client past its budget before them");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_that_queues_much_does_not_keep_another_user_of_the_same_key_waiting() {
    let db = Db::fresh().await;
    let sim = Sim::start(Config::default().models(["tiny-a"])).await.unwrap();
    let api = Api::start(&db, &[]).await;
    let _worker = Worker::start(&db, &sim.url(), &[]).await;
    let prompt = "sim:tokens=1 sim:token-delay=15ms";
    let post = async |path: &str, user: &str, body: String| {
        let asked = http().post(format!("{}{path}", api.url)).header("x-foreman-user", user).body(body);
        asked.send().await.unwrap().error_for_status().unwrap().text().await.unwrap()
    };
    api.submit(&json!({"model": "tiny-a", "prompt": prompt})).await;
    let flood: String = (0..400)
        .map(|nth| format!("{}\n", json!({"model": "tiny-a", "prompt": format!("{nth} {prompt}")})))
        .collect();
    post("/jobs/batch", "ada", flood).await;
    sim.until(|log| log.completed >= 5).await;
    let answer = post("/jobs", "bob", json!({"model": "tiny-a", "prompt": prompt}).to_string()).await;
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let id = answer["job_id"].as_str().unwrap();
    let job = done(&api, id).await;
    assert_eq!(job["user"], "bob");
    let before = went_before(&db, id).await;
    assert!(before <= 8, "{before} of 400 jobs went first");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queue_tells_whose_turn_it_is_who_comes_next_and_who_got_how_much() {
    let db = Db::fresh().await;
    let config = Config { load_delay: Duration::from_millis(200), ..Config::default() };
    let sim = Sim::start(config.models(["tiny-a", "tiny-b"])).await.unwrap();
    let api = Api::start(&db, &[]).await;
    let another = db.new_client("another", false).await.client;
    let jobs: Vec<NewJob> = (0..600)
        .map(|nth| {
            let (client, model) = if nth % 2 == 0 { (db.client, "tiny-a") } else { (another, "tiny-b") };
            let request = generating(&db, &format!("{nth} sim:tokens=2 sim:token-delay=20ms"));
            db.job(JobRequest { client, ..for_model(model, request) })
        })
        .collect();
    db.accept_all(&jobs).await;
    let _worker = Worker::start(&db, &sim.url(), &[]).await;
    let host = eventually("both had the GPU, and one of them has the turn", async || {
        let queue = api.get("/queue").await;
        let host = queue["hosts"][0].clone();
        let parts = "SELECT json_array_length(plan::json->'turns'->'parts') FROM host_plan";
        let is_told =
            host["turn"]["is_loaded"] == true && host["next"].as_array().is_some_and(|next| next.len() == 1);
        if is_told && sim.log().loads >= 3 && db.value::<i32>(parts).await == 2 {
            Ok(host)
        } else {
            Err(queue)
        }
    })
    .await;
    assert_eq!(host["turn"]["context"], LONGEST_CONTEXT);
    assert_eq!(host["next"][0]["client"], "another client", "this caller has no jobs");
    assert_ne!(host["turn"]["model"], host["next"][0]["model"]);
    assert!(host["longest_wait_ms"].is_u64() && host["keeps_max_wait"] == true, "{host:#}");
    let plan: String = db.value("SELECT plan FROM host_plan").await;
    let plan: Value = serde_json::from_str(&plan).unwrap();
    let parts = plan["turns"]["parts"].as_array().unwrap();
    let sum = |of: &str| parts.iter().map(|part| part[of].as_f64().unwrap()).sum::<f64>();
    assert!((sum("due") - sum("got")).abs() < 1e-6, "{plan:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_holder_goes_on_with_the_model_that_is_loaded_and_tells_what_it_does() {
    let db = Db::fresh().await;
    let config = Config { load_delay: Duration::from_millis(300), ..Config::default() };
    let sim = Sim::start(config.models(["tiny-a", "tiny-b"])).await.unwrap();
    let api = Api::start(&db, &[]).await;
    let mut worker = Worker::start(&db, &sim.url(), &[("FOREMAN_LEASE_TTL", "2s")]).await;
    for (nth, model) in ["tiny-b", "tiny-a"].repeat(60).into_iter().enumerate() {
        let mut job = chat(&format!("{nth} sim:tokens=3 sim:token-delay=20ms"));
        job["model"] = model.into();
        api.submit(&job).await;
    }
    // A plan is told once a second.
    let resident = eventually("a plan with a loaded model", async || {
        let queue = api.get("/queue").await;
        let models = queue["models"].as_array().unwrap();
        let loaded =
            models.iter().find(|model| model["resident_on"].as_array().is_some_and(|on| on.len() == 1));
        let told = loaded.filter(|model| model["longest_wait_ms"].is_u64());
        told.map(|model| model["model"].as_str().unwrap().to_owned()).ok_or(queue)
    })
    .await;
    worker.process.kill().await;
    let (loads, ran) = sim.look(|log| (log.loads, log.completed));
    let at_the_kill = sim.resident();
    worker.process.start_again();
    sim.until(|log| log.completed > ran + 1).await;
    let log = sim.log();
    let first = log.runs().into_iter().rev().find(|run| run.ended.is_some()).unwrap().model.clone();
    assert!(at_the_kill.contains(&first), "{first} ran first, and {at_the_kill:?} was loaded ({resident})");
    assert_eq!(
        log.loads,
        loads,
        "{:?}",
        log.events.iter().filter(|event| event.what == Happening::Loaded).count()
    );
    db.every_job_ends().await;
}
