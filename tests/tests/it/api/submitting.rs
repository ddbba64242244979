//! Tests how jobs are submitted: the answer, the stored job, and the same key twice.

use std::collections::HashSet;

use foreman_tests::{Api, Db, eventually, success};
use reqwest::Method;
use serde_json::json;

use super::{JOB, MODEL, ask, header, json, post, problem, publish, run, start, submit};

#[tokio::test]
async fn a_job_is_accepted_and_stored_as_ollama_will_get_it() {
    let (db, api) = start(&[("FOREMAN_PUBLIC_URL", "https://jobs.example/base/")]).await;
    let answer = post(
        &api,
        "/jobs",
        r#"{"model": "Tiny-A", "keep_alive": 5, "messages": [ {"role":"user"} ], "state_webhook_url": "http://127.0.0.1:9/Hook?x=1#part",
            "webhook_events": ["failed","done"], "options": {"seed": 1.0, "num_ctx": 512}, "stream": false, "priority": 7,
            "metadata": {"b":1, "a":"\u0000"}, "run_at": "2020-01-01T00:00:00Z", "max_attempts": 2, "think": true}"#,
    )
    .await;
    assert_eq!(answer.status(), 202);
    let location = header(&answer, "location").to_owned();
    let id = json(answer).await["job_id"].as_str().unwrap().to_owned();
    assert_eq!(location, format!("https://jobs.example/base/jobs/{id}"));
    let body: String = db.value("SELECT body FROM job").await;
    assert_eq!(
        body,
        r#"{"model":"Tiny-A","messages":[ {"role":"user"} ],"options":{"seed": 1.0, "num_ctx": 512},"stream":true,"think":true}"#
    );
    let job = api.get(&format!("/jobs/{id}")).await;
    assert_eq!(job["model"], "Tiny-A");
    assert_eq!(job["state_webhook_url"], "http://127.0.0.1:9/Hook?x=1");
    assert_eq!(job["webhook_events"], json!(["failed", "done"]));
    assert_eq!((&job["priority"], &job["max_attempts"]), (&json!(7), &json!(2)));
    assert_eq!(job["metadata"], json!({"b": 1, "a": "\u{0}"}));
    let stored: String =
        db.value("SELECT concat_ws('|', load_key, model_label, path, webhook_origin) FROM job").await;
    assert_eq!(stored, "tiny-a:latest num_ctx=512|tiny-a:latest|/api/chat|http://127.0.0.1:9");
    db.every_job_has_one_room().await;
}

#[tokio::test]
async fn a_job_for_later_waits_in_its_own_room() {
    let (db, api) = start(&[]).await;
    let later = foreman_webhook::rfc3339(chrono::Utc::now() + chrono::TimeDelta::hours(2));
    let job = submit(&api, &format!(r#"{{"model":"tiny-a","prompt":"x","run_at":"{later}"}}"#)).await;
    assert_eq!(db.room(job).await, "scheduled");
    let shown = api.get(&format!("/jobs/{job}")).await;
    assert_eq!((&shown["state"], &shown["run_at"]), (&json!("queued"), &json!(later)));
}

#[tokio::test]
async fn the_same_key_with_the_same_bytes_is_the_same_job() {
    let (db, api) = start(&[]).await;
    let keyed = |body: &'static str, key: &str| {
        ask(&api, Method::POST, "/jobs").header("idempotency-key", key).body(body)
    };
    let first = keyed(JOB, "order 7").send().await.unwrap();
    assert_eq!((first.status().as_u16(), header(&first, "idempotency-replayed")), (202, ""));
    let id = json(first).await["job_id"].clone();
    let again = keyed(JOB, "order 7").send().await.unwrap();
    assert_eq!((again.status().as_u16(), header(&again, "idempotency-replayed")), (202, "true"));
    assert_eq!(json(again).await["job_id"], id);
    let other = keyed(r#"{"model":"tiny-a","prompt":"other"}"#, "order 7").send().await.unwrap();
    assert_eq!(problem(other, 422, "another body").await, "idempotency_key_reused");
    for key in ["", &"x".repeat(256), "clé"] {
        assert_eq!(problem(keyed(JOB, key).send().await.unwrap(), 400, key).await, "invalid_idempotency_key");
    }
    assert_eq!(db.value::<i64>("SELECT count(*) FROM job").await, 1);
}

#[tokio::test]
async fn a_key_stays_with_its_job_even_where_the_job_would_be_refused_now() {
    let (db, api) = start(&[("FOREMAN_CLIENT_MAX_QUEUED", "1")]).await;
    let soon = foreman_webhook::rfc3339(chrono::Utc::now() + chrono::TimeDelta::hours(1));
    let body = format!(r#"{{"model":"tiny-a","prompt":"x","expires_at":"{soon}"}}"#);
    let keyed = || ask(&api, Method::POST, "/jobs").header("idempotency-key", "k").body(body.clone());
    assert_eq!(keyed().send().await.unwrap().status(), 202);
    // Now the queue is full, for a job without a key and for a job with a new one.
    assert_eq!(problem(post(&api, "/jobs", JOB).await, 429, "full").await, "queue_full");
    let new = ask(&api, Method::POST, "/jobs").header("idempotency-key", "new").body(body.clone());
    assert_eq!(problem(new.send().await.unwrap(), 429, "a new key").await, "queue_full");
    let again = keyed().send().await.unwrap();
    assert_eq!((again.status().as_u16(), header(&again, "idempotency-replayed")), (202, "true"));
    assert_eq!(db.value::<i64>("SELECT count(*) FROM job").await, 1);
}

#[tokio::test]
async fn the_same_key_with_the_same_model_is_the_same_load_even_where_the_queue_is_full() {
    let db = Db::fresh().await;
    publish(&db).await;
    db.run("INSERT INTO host_model VALUES ('gpu', 'tiny-b:latest', 'tiny-b:latest', true)").await;
    let api = Api::start(&db, &[("FOREMAN_CLIENT_MAX_QUEUED", "2")]).await;
    let warm = async |model: &str| {
        let request = ask(&api, Method::POST, &format!("/models/{model}/warm"));
        request.header("idempotency-key", "at eight").send().await.unwrap()
    };
    let first = warm("tiny-a").await;
    assert_eq!((first.status().as_u16(), header(&first, "idempotency-replayed")), (202, ""));
    let id = json(first).await["job_id"].clone();
    assert_eq!(problem(warm("tiny-b").await, 422, "another model").await, "idempotency_key_reused");
    submit(&api, JOB).await;
    let again = warm("Tiny-A").await;
    assert_eq!((again.status().as_u16(), header(&again, "idempotency-replayed")), (202, "true"));
    assert_eq!(json(again).await["job_id"], id);
    assert_eq!(db.value::<i64>("SELECT count(*) FROM job").await, 2);
}

#[tokio::test]
async fn one_key_in_a_race_over_two_apis_makes_one_job() {
    let db = Db::fresh().await;
    publish(&db).await;
    let (one, other) = (Api::start(&db, &[]).await, Api::start(&db, &[]).await);
    for round in 0..20 {
        let race = (0..16).map(|index| {
            let api = if index % 2 == 0 { &one } else { &other };
            let request =
                ask(api, Method::POST, "/jobs").header("idempotency-key", format!("k{round}")).body(JOB);
            async { json(request.send().await.unwrap()).await["job_id"].as_str().unwrap().to_owned() }
        });
        let ids: HashSet<String> = futures_util::future::join_all(race).await.into_iter().collect();
        assert_eq!(ids.len(), 1, "round {round}: {ids:?}");
    }
    assert_eq!(db.value::<i64>("SELECT count(*) FROM job").await, 20);
    db.every_job_has_one_room().await;
}

#[tokio::test]
async fn many_at_once_are_all_accepted_in_the_order_of_their_ids() {
    let (db, api) = start(&[]).await;
    let all = (0..300).map(|_| submit(&api, JOB));
    let ids: HashSet<_> = futures_util::future::join_all(all).await.into_iter().collect();
    assert_eq!(ids.len(), 300);
    let disorder: i64 = db
        .value("SELECT count(*) FROM (SELECT job_id < lag(job_id) OVER (ORDER BY id) AS falls FROM outbox) AS o WHERE falls")
        .await;
    assert_eq!(disorder, 0, "ids rise in the order of the queue");
    db.every_job_has_one_room().await;
    let metrics = text(&format!("{}/metrics", api.ops_url)).await;
    assert!(metrics.contains(r#"foreman_jobs_submitted_total{model="tiny-a:latest"} 300"#), "{metrics}");
}

#[tokio::test]
async fn a_client_that_prefers_to_wait_gets_the_finished_job() {
    let (db, api) = start(&[]).await;
    let waiting =
        ask(&api, Method::POST, "/jobs").header("prefer", "respond-async, wait=30").body(JOB).send();
    let playing_worker = async {
        let job = eventually("a job in the queue", async || {
            db.values::<sqlx::types::Uuid>("SELECT job_id FROM job_ready").await.pop().ok_or("none")
        })
        .await;
        run(&db, job.into(), success()).await;
    };
    let (answer, ()) = tokio::join!(waiting, playing_worker);
    let answer = answer.unwrap();
    assert_eq!((answer.status().as_u16(), header(&answer, "preference-applied")), (200, "wait=30"));
    assert_eq!(json(answer).await["state"], "done");
    let unanswered =
        ask(&api, Method::POST, "/jobs").header("prefer", "wait=1").body(JOB).send().await.unwrap();
    assert_eq!((unanswered.status().as_u16(), header(&unanswered, "preference-applied")), (202, ""));
}

#[tokio::test]
async fn a_retry_is_a_new_job_with_the_same_request() {
    let (db, api) = start(&[]).await;
    let job = submit(
        &api,
        r#"{"model":"tiny-a","prompt":"x","priority":3,"metadata":{"a":1},"state_webhook_url":"http://127.0.0.1:9/","webhook_events":["done"]}"#,
    )
    .await;
    let live = ask(&api, Method::POST, &format!("/jobs/{job}/retry")).send().await.unwrap();
    assert_eq!(problem(live, 409, "live").await, "job_is_live");
    ask(&api, Method::POST, &format!("/jobs/{job}/cancel")).send().await.unwrap();
    let answer = ask(&api, Method::POST, &format!("/jobs/{job}/retry")).send().await.unwrap();
    assert_eq!(answer.status(), 202);
    let again = json(answer).await["job_id"].as_str().unwrap().to_owned();
    let shown = api.get(&format!("/jobs/{again}")).await;
    assert_eq!(shown["retry_of"], job.to_string());
    for field in ["model", "priority", "metadata", "state_webhook_url", "webhook_events"] {
        assert_eq!(shown[field], api.get(&format!("/jobs/{job}")).await[field], "{field}");
    }
    assert_eq!(shown["state"], "queued");
    let bodies: Vec<String> = db.values("SELECT DISTINCT body FROM job").await;
    assert_eq!(bodies.len(), 1);
}

#[tokio::test]
async fn before_any_host_has_published_the_client_is_asked_to_come_back() {
    let db = Db::fresh().await;
    let api = Api::start(&db, &[]).await;
    let answer = post(&api, "/jobs", JOB).await;
    assert!(!header(&answer, "retry-after").is_empty());
    assert_eq!(problem(answer, 503, "no host").await, "no_inventory");
    publish(&db).await;
    eventually("a known model", async || {
        let status = post(&api, "/jobs", JOB).await.status();
        if status == 202 { Ok(()) } else { Err(status) }
    })
    .await;
    let label: String = db.value("SELECT model_label FROM job LIMIT 1").await;
    assert_eq!(label, format!("{MODEL}:latest"));
}

#[tokio::test]
async fn a_miss_has_the_live_hosts_look_again() {
    let (db, api) = start(&[]).await;
    // This live host lists its models only when it is asked.
    db.run("UPDATE host SET holder = gen_random_uuid(), reachable = true, ttl = interval '1 hour', renewed_at = now()").await;
    let wakeups = foreman_store::wake::Wakeups::default();
    let mut asked = wakeups.subscribe(foreman_store::wake::Topic::Inventory);
    let store = db.another_store();
    let hearing = wakeups.clone();
    let listening = tokio::spawn(async move { hearing.run(&store).await });
    asked.changed().await;
    let host = async {
        asked.changed().await;
        db.run("INSERT INTO host_model VALUES ('gpu', 'fresh:latest', 'Fresh:latest', true)").await;
        db.run("UPDATE host SET published_at = clock_timestamp()").await;
        wakeups.tell(foreman_store::wake::Topic::Published);
    };
    let (answer, ()) = tokio::join!(post(&api, "/jobs", r#"{"model":"fresh","prompt":"x"}"#), host);
    assert_eq!(answer.status(), 202);
    assert_eq!(db.value::<String>("SELECT model_label FROM job").await, "Fresh:latest");
    listening.abort();
}

async fn text(url: &str) -> String {
    foreman_tests::http().get(url).send().await.unwrap().text().await.unwrap()
}

#[tokio::test]
async fn a_stop_lets_what_runs_finish_and_takes_nothing_new() {
    let (db, mut api) = start(&[]).await;
    let job = submit(&api, JOB).await;
    let url = api.url.clone();
    let waiting = tokio::spawn(foreman_tests::http().get(format!("{url}/jobs/{job}?wait=60")).send());
    // When the api asks for the progress of the jobs that requests wait for, a request is waiting.
    eventually("a request that waits", async || {
        let asked: i64 =
            db.value("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '-- progress%'").await;
        if asked > 0 { Ok(()) } else { Err("nobody waits") }
    })
    .await;
    api.process.terminate().await;
    let answer = waiting.await.unwrap().unwrap();
    assert_eq!(json(answer).await["state"], "queued", "answered at once with the state as it is");
    assert!(foreman_tests::http().get(format!("{url}/")).send().await.is_err());
    db.every_job_has_one_room().await;
}
