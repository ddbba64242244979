//! Tests `GET /queue`: the jobs of each client, whose turn it is, and what of this a client may see.

use foreman_store::{GpuPart, HostPlan, HostTurns, LoadedRunner, NextTurn, Phase, Term, TermsChange, Why};
use foreman_tests::{Api, Db, eventually};
use reqwest::Method;
use serde_json::{Value, json};

use super::{JOB, ask, claim, json as read, publish};

async fn queue(api: &Api, key: &str) -> Value {
    read(ask(api, Method::GET, "/queue").bearer_auth(key).send().await.unwrap()).await
}

async fn submit(api: &Api, key: &str, body: &str) -> foreman_store::JobId {
    let answer = ask(api, Method::POST, "/jobs").bearer_auth(key).body(body.to_owned()).send().await.unwrap();
    assert_eq!(answer.status(), 202);
    read(answer).await["job_id"].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn everybody_sees_their_own_and_the_others_and_an_admin_sees_whose() {
    let db = Db::fresh().await;
    publish(&db).await;
    db.run("INSERT INTO host_model VALUES ('gpu', 'tiny-b:latest', 'Tiny-B:latest', true)").await;
    let api = Api::start(&db, &[("FOREMAN_AUTH", "required")]).await;
    let client = async |name: &str, is_admin| db.new_client(name, is_admin).await.key;
    let (mine, other, admin) =
        (client("mine", false).await, client("other", false).await, client("admin", true).await);
    assert_eq!(queue(&api, &mine).await["models"], json!([]));

    let later = foreman_webhook::rfc3339(chrono::Utc::now() + chrono::TimeDelta::hours(1));
    let running = submit(&api, &mine, JOB).await;
    let held = submit(&api, &mine, JOB).await;
    submit(&api, &mine, &format!(r#"{{"model":"tiny-a","prompt":"x","run_at":"{later}"}}"#)).await;
    // With other options, it is still the same model.
    submit(&api, &other, r#"{"model":"tiny-a","prompt":"x","options":{"num_ctx":512}}"#).await;
    submit(&api, &other, r#"{"model":"tiny-b","prompt":"x"}"#).await;
    let holder = db.holder().await;
    let lease = claim(&db, &holder, running).await;
    db.store.begin(&[(&lease, Phase::Working)]).await.unwrap();
    claim(&db, &holder, held).await;

    // A reading is used for a while.
    let seen = eventually("a new reading", async || {
        let seen = queue(&api, &mine).await;
        let is_new = seen["models"][0]["running"] == 1 && seen["models"][0]["queued"] == 3;
        if is_new { Ok(seen) } else { Err(seen) }
    })
    .await;
    let [a, b] = seen["models"].as_array().unwrap().as_slice() else { panic!("{seen:#}") };
    assert_eq!((&a["model"], &b["model"]), (&json!("tiny-a:latest"), &json!("Tiny-B:latest")));
    assert_eq!(a["own"], json!({"queued": 2, "running": 1}));
    assert_eq!(a["others"], json!({"queued": 1, "running": 0}));
    assert_eq!((&b["queued"], &b["own"]), (&json!(1), &json!({"queued": 0, "running": 0})));
    let text = seen.to_string();
    assert!(!text.contains("other\"") || !text.contains("\"name\""), "nobody is named: {text}");
    assert!(a["clients"].is_null() && b["clients"].is_null());
    let since = a["oldest"].as_str().unwrap();
    assert!(since < seen["as_of"].as_str().unwrap(), "the oldest could run already");

    let seen = queue(&api, &admin).await;
    assert_eq!(
        seen["models"][0]["clients"],
        json!([{"name": "mine", "queued": 2, "running": 1}, {"name": "other", "queued": 1, "running": 0}])
    );
    assert_eq!(seen["models"][0]["own"], json!({"queued": 0, "running": 0}));
    assert_eq!(seen["models"][0]["others"], json!({"queued": 3, "running": 1}));
}

#[tokio::test]
async fn turns_and_parts_are_told_and_nobody_is_named_to_another_client() {
    let db = Db::fresh().await;
    publish(&db).await;
    let (mine, other, admin) = (
        db.new_client("mine", false).await,
        db.new_client("secret", false).await,
        db.new_client("admin", true).await,
    );
    let terms = TermsChange {
        weight: Some(Term::Is(3.0)),
        max_running: Some(Term::Is(2)),
        gpu_seconds_a_day: Some(Term::Is(100.0)),
        ..TermsChange::default()
    };
    db.store.change_terms("mine", &terms).await.unwrap();
    db.run(&format!(
        "INSERT INTO usage_entry (hour, client_id, user_name, model, gpu_seconds)
         VALUES (date_trunc('hour', now(), 'UTC'), '{}', '', 'tiny-a:latest', 30)",
        mine.client.uuid()
    ))
    .await;
    let holder = db.holder().await;
    db.run("UPDATE host SET reachable = true").await;
    let part = |client, due, got| GpuPart { client, due, got };
    let next = |client, why| NextTurn { runner: "tiny-b:latest".to_owned(), context: None, client, why };
    let loaded = |runner: &str, context| LoadedRunner { runner: runner.to_owned(), context };
    let turns = HostTurns {
        client: Some(other.client),
        context: Some(4_096),
        why: Why::QuantumIsOver,
        loaded: vec![loaded("tiny-a:latest num_ctx=4096", Some(4_096)), loaded("tiny-b:latest", None)],
        is_drained: false,
        running: 1,
        slots: 4,
        max_wait_ms: Some(1_000),
        next: vec![next(mine.client, Why::HadLess), next(other.client, Why::OthersHadLess)],
        gpu_seconds: 40.0,
        parts: vec![part(mine.client, 30.0, 10.0), part(other.client, 10.0, 30.0)],
    };
    let plan = HostPlan {
        turn: Some("tiny-a:latest num_ctx=4096".to_owned()),
        loaded: vec!["tiny-a:latest num_ctx=4096".to_owned(), "tiny-b:latest".to_owned()],
        longest_wait_ms: Some(1_001),
        turns,
        ..HostPlan::default()
    };
    db.store.publish_plan(&holder, &plan).await.unwrap();
    let api = Api::start(&db, &[("FOREMAN_AUTH", "required")]).await;

    let seen = queue(&api, &mine.key).await;
    let host = &seen["hosts"][0];
    assert_eq!(host["turn"]["client"], "another client");
    assert_eq!(host["turn"]["model"], "tiny-a:latest");
    assert_eq!((&host["turn"]["context"], &host["turn"]["is_loaded"]), (&json!(4_096), &json!(true)));
    assert_eq!(
        host["loaded"],
        json!([
            {"model": "tiny-a:latest", "load_key": "tiny-a:latest num_ctx=4096", "context": 4_096},
            {"model": "tiny-b:latest", "load_key": "tiny-b:latest", "context": null},
        ])
    );
    assert!(host["turn"]["reason"].as_str().unwrap().starts_with("its quantum is over and others wait"));
    let clients: Vec<&Value> = host["next"].as_array().unwrap().iter().map(|next| &next["client"]).collect();
    assert_eq!(clients, ["mine", "another client"]);
    assert!(host["next"][0]["reason"].as_str().unwrap().contains("has had less of the GPU"));
    assert_eq!((&host["running"], &host["slots"]), (&json!(1), &json!(4)));
    assert_eq!(
        (&host["longest_wait_ms"], &host["max_wait_ms"], &host["keeps_max_wait"]),
        (&json!(1_001), &json!(1_000), &json!(false))
    );
    assert_eq!(
        seen["clients"],
        json!([{
            "name": "mine", "queued": 0, "running": 0, "weight": 3.0, "share_due": 0.75, "share_got": 0.25, "gpu_seconds": 10.0,
            "max_running": 2, "gpu_seconds_a_day": 100.0, "gpu_seconds_left": 70.0,
        }])
    );
    assert!(!seen.to_string().contains("secret"), "{seen:#}");

    assert_eq!(host["is_reachable"], true);

    let seen = queue(&api, &admin.key).await;
    assert_eq!(seen["hosts"][0]["turn"]["client"], "secret");
    assert_eq!(seen["hosts"][0]["next"][1]["client"], "secret");
    let names: Vec<&Value> = seen["clients"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["mine", "secret"]);
    assert_eq!(seen["clients"][1]["gpu_seconds_left"], json!(null));
}

#[tokio::test]
async fn a_host_whose_ollama_is_away_is_shown_without_turns() {
    let db = Db::fresh().await;
    publish(&db).await;
    let holder = db.holder().await;
    let plan = HostPlan { turn: Some("tiny-a:latest".to_owned()), ..HostPlan::default() };
    db.store.publish_plan(&holder, &plan).await.unwrap();
    let api = Api::start(&db, &[]).await;
    let shows = async |is_reachable: bool| {
        db.run(&format!("UPDATE host SET reachable = {is_reachable}")).await;
        eventually("the host", async || {
            let host = api.get("/queue").await["hosts"][0].clone();
            if host["is_reachable"] == is_reachable { Ok(host) } else { Err(host.to_string()) }
        })
        .await
    };
    let away = shows(false).await;
    assert_eq!(
        (&away["host"], &away["turn"], &away["next"]),
        (&json!("test-host"), &Value::Null, &json!([]))
    );
    assert_eq!(shows(true).await["turn"]["model"], "tiny-a:latest");
}

#[tokio::test]
async fn many_who_ask_at_once_share_one_reading() {
    let db = Db::fresh().await;
    publish(&db).await;
    let api = Api::start(&db, &[]).await;
    let mut lock = db.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE job_ready IN ACCESS EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();
    let asking = futures_util::future::join_all((0..50).map(|_| api.get("/queue")));
    let releasing = async {
        let waiting =
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '-- queue%' AND wait_event_type = 'Lock'
                       AND datname = current_database()";
        eventually("a reading that waits", async || {
            if db.value::<i64>(waiting).await == 1 { Ok(()) } else { Err("none") }
        })
        .await;
        lock.rollback().await.unwrap();
    };
    let (answers, ()) = tokio::join!(asking, releasing);
    assert!(answers.iter().all(|answer| answer["as_of"] == answers[0]["as_of"]));
}
