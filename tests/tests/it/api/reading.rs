//! Tests how clients read jobs: a single job, lists, histories, artifacts and deliveries.

use foreman_store::{Completion, Exit, JobId, Phase};
use foreman_tests::{Api, Db, eventually, reason, success};
use reqwest::Method;
use serde_json::{Value, json};

use super::{JOB, ask, claim, get, header, json as read, post, problem, run, start, submit};

fn completion(bytes: &[u8]) -> Exit {
    Exit::Done(Completion {
        completion: bytes.to_vec(),
        content_type: "application/json".to_owned(),
        prompt_tokens: Some(3),
        completion_tokens: Some(5),
    })
}

#[tokio::test]
async fn a_completion_that_is_not_json_is_an_artifact_and_no_result() {
    let (db, api) = start(&[]).await;
    let job = submit(&api, JOB).await;
    let line = r#"{"done":true}"#;
    let exit = Exit::Done(Completion {
        completion: line.as_bytes().to_vec(),
        content_type: "application/x-ndjson".to_owned(),
        prompt_tokens: None,
        completion_tokens: None,
    });
    run(&db, job, exit).await;
    let done = api.get(&format!("/jobs/{job}")).await;
    assert_eq!(done["result"], Value::Null);
    assert_eq!(done["artifacts"][0]["content_type"], "application/x-ndjson");
    assert_eq!(done["artifacts"][0]["data"], line);
    assert_eq!(api.get(&format!("/jobs/{job}/events")).await["data"][3]["result"], Value::Null);
}

#[tokio::test]
async fn a_job_always_has_all_its_fields() {
    let (db, api) = start(&[]).await;
    let job = submit(&api, JOB).await;
    let queued = api.get(&format!("/jobs/{job}")).await;
    run(&db, job, completion(br#"{"done":true,"n":1.50}"#)).await;
    let done = api.get(&format!("/jobs/{job}")).await;
    let mut names: Vec<&String> = queued.as_object().unwrap().keys().collect();
    assert!(names.iter().copied().eq(done.as_object().unwrap().keys()));
    names.sort();
    assert_eq!(
        names,
        [
            "artifacts",
            "attempt",
            "cancel_requested",
            "completed_at",
            "context",
            "created_at",
            "error",
            "error_code",
            "eta",
            "expires_at",
            "failures",
            "job_id",
            "max_attempts",
            "metadata",
            "model",
            "position",
            "priority",
            "rescues",
            "result",
            "retry_of",
            "run_at",
            "seq",
            "started_at",
            "state",
            "state_webhook_url",
            "timing",
            "usage",
            "user",
            "waiting_for",
            "webhook_events",
        ]
    );
    for (field, value) in [
        ("state", json!("queued")),
        ("seq", json!(1)),
        ("attempt", json!(0)),
        ("artifacts", json!([])),
        ("result", json!(null)),
        ("error", json!(null)),
        ("started_at", json!(null)),
        ("context", json!(null)),
        ("usage", json!({"prompt_tokens": null, "completion_tokens": null})),
    ] {
        assert_eq!(queued[field], value, "{field}");
    }
    assert_eq!((&done["state"], &done["seq"], &done["attempt"]), (&json!("done"), &json!(4), &json!(1)));
    assert_eq!(done["usage"], json!({"prompt_tokens": 3, "completion_tokens": 5}));
    let times: Vec<&str> =
        ["created_at", "started_at", "completed_at"].map(|time| done[time].as_str().unwrap()).to_vec();
    assert!(times.is_sorted() && times.iter().all(|time| time.ends_with('Z')), "{times:?}");
    assert!(done["timing"]["wait_ms"].is_number() && done["timing"]["load_ms"].is_number());
    let bytes = get(&api, &format!("/jobs/{job}")).await.text().await.unwrap();
    assert!(bytes.contains(r#""result":{"done":true,"n":1.50}"#), "the result keeps its bytes: {bytes}");
}

#[tokio::test]
async fn an_artifact_is_inline_up_to_the_limit_and_by_url_above_it() {
    let (db, api) = start(&[("FOREMAN_ARTIFACT_INLINE_LIMIT", "32B")]).await;
    let (small, large) = (submit(&api, JOB).await, submit(&api, JOB).await);
    run(&db, small, completion(br#"{"done":true}"#)).await;
    let bytes = format!(r#"{{"done":true,"text":"{}"}}"#, "é".repeat(100_000)).into_bytes();
    run(&db, large, completion(&bytes)).await;

    let shown = api.get(&format!("/jobs/{small}")).await;
    assert_eq!(shown["result"], json!({"done": true}));
    let [artifact] = shown["artifacts"].as_array().unwrap().as_slice() else { panic!("{shown}") };
    assert_eq!(artifact["data"], r#"{"done":true}"#);
    assert_eq!(
        (&artifact["name"], &artifact["content_type"], &artifact["size"]),
        (&json!("completion"), &json!("application/json"), &json!(13))
    );
    assert!(artifact.get("url").is_none());

    let shown = api.get(&format!("/jobs/{large}")).await;
    assert_eq!(shown["result"], json!(null));
    let artifact = &shown["artifacts"][0];
    assert!(artifact.get("data").is_none());
    let path = artifact["url"].as_str().unwrap();
    assert_eq!(path, format!("/jobs/{large}/artifacts/completion"));
    let answer = get(&api, path).await;
    assert_eq!(header(&answer, "content-type"), "application/json");
    let tag = header(&answer, "etag").to_owned();
    assert_eq!(tag, format!("\"{}\"", artifact["sha256"].as_str().unwrap()));
    assert_eq!(answer.bytes().await.unwrap(), bytes);
    let known = ask(&api, Method::GET, path).header("if-none-match", &tag).send().await.unwrap();
    assert_eq!((known.status().as_u16(), known.bytes().await.unwrap().len()), (304, 0));
}

#[tokio::test]
async fn a_job_that_has_not_changed_is_not_sent_again() {
    let (_db, api) = start(&[]).await;
    let job = submit(&api, JOB).await;
    let path = format!("/jobs/{job}");
    let tag = header(&get(&api, &path).await, "etag").to_owned();
    let poll = || ask(&api, Method::GET, &path).header("if-none-match", &tag).send();
    assert_eq!(poll().await.unwrap().status(), 304);
    ask(&api, Method::POST, &format!("{path}/cancel")).send().await.unwrap();
    assert_eq!(poll().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_wait_ends_with_the_transition_that_it_waits_for() {
    let (db, api) = start(&[]).await;
    let job = submit(&api, JOB).await;
    let path = format!("/jobs/{job}?wait=60");
    let next = format!("{path}&after_seq=1");
    let holder = db.holder().await;
    let lease = claim(&db, &holder, job).await;
    let playing_worker = async {
        db.store.begin(&[(&lease, Phase::Loading)]).await.unwrap();
    };
    let (seen, ()) = tokio::join!(api.get(&next), playing_worker);
    assert_eq!((&seen["state"], &seen["seq"]), (&json!("loading"), &json!(2)));
    assert_eq!(api.get(&next).await["seq"], 2, "what is known already is answered at once");
    let playing_worker = async {
        db.store.begin(&[(&lease, Phase::Working)]).await.unwrap();
        db.settle(&[(lease, Exit::Failed(reason()))]).await.unwrap();
    };
    let (ended, ()) = tokio::join!(api.get(&path), playing_worker);
    assert_eq!((&ended["state"], &ended["error_code"]), (&json!("failed"), &json!("runner_stopped")));
    assert_eq!(ended["error"], "the runner stopped");
    assert_eq!(api.get(&format!("{path}&after_seq=99")).await["state"], "failed", "an end ends every wait");
}

#[tokio::test]
async fn cancelling_is_told_at_once_wherever_the_job_is() {
    let (db, api) = start(&[]).await;
    let cancel = async |job: JobId| {
        read(ask(&api, Method::POST, &format!("/jobs/{job}/cancel")).send().await.unwrap()).await
    };
    let waiting = submit(&api, JOB).await;
    let shown = cancel(waiting).await;
    assert_eq!(
        (&shown["state"], &shown["cancel_requested"], &shown["seq"]),
        (&json!("cancelled"), &json!(true), &json!(2))
    );
    assert_eq!(cancel(waiting).await, shown, "twice is harmless");

    let held = submit(&api, JOB).await;
    let lease = claim(&db, &db.holder().await, held).await;
    db.store.begin(&[(&lease, Phase::Working)]).await.unwrap();
    let shown = cancel(held).await;
    assert_eq!((&shown["state"], &shown["cancel_requested"]), (&json!("working"), &json!(true)));
    db.settle(&[(lease, success())]).await.unwrap();
    let shown = cancel(held).await;
    assert_eq!(
        (&shown["state"], &shown["cancel_requested"]),
        (&json!("done"), &json!(false)),
        "success came first"
    );
}

#[tokio::test]
async fn the_history_is_complete_while_the_relay_carries_it() {
    let (db, api) = start(&[]).await;
    let job = submit(&api, r#"{"model":"Tiny-A","prompt":"x","metadata":{"a":1}}"#).await;
    let holder = db.holder().await;
    let lease = claim(&db, &holder, job).await;
    db.store.begin(&[(&lease, Phase::Working)]).await.unwrap();
    db.settle(&[(lease, Exit::Retry { reason: reason(), wait: std::time::Duration::ZERO })]).await.unwrap();
    db.store.promote(10).await.unwrap();
    run(&db, job, completion(br#"{"done":true}"#)).await;
    let before = api.get(&format!("/jobs/{job}/events")).await;
    // Move half of the events on, as the relay would.
    db.run(
        "WITH gone AS (DELETE FROM outbox WHERE seq <= 4 RETURNING *)
         INSERT INTO job_event (job_id, seq, attempt, state, previous_state, error, at)
         SELECT job_id, seq, attempt, state, previous_state, error, at FROM gone",
    )
    .await;
    let events = api.get(&format!("/jobs/{job}/events")).await;
    assert_eq!(before, events);
    let events = events["data"].as_array().unwrap();
    let told: Vec<Value> = events
        .iter()
        .map(|event| {
            json!([event["seq"], event["previous_state"], event["type"], event["attempt"], event["error"]])
        })
        .collect();
    assert_eq!(
        told,
        [
            json!([1, "", "job.queued", 0, null]),
            json!([2, "queued", "job.loading", 1, null]),
            json!([3, "loading", "job.working", 1, null]),
            json!([4, "working", "job.queued", 1, "the runner stopped"]),
            json!([5, "queued", "job.loading", 2, null]),
            json!([6, "loading", "job.working", 2, null]),
            json!([7, "working", "job.done", 2, null]),
        ]
    );
    for event in &events[..6] {
        assert_eq!((&event["artifacts"], &event["result"]), (&json!(null), &json!(null)));
    }
    assert_eq!(events[6]["result"], json!({"done": true}));
    assert_eq!(events[6]["artifacts"][0]["data"], r#"{"done":true}"#);
    assert!(events.iter().all(|event| event["metadata"] == json!({"a": 1}) && event["model"] == "Tiny-A"));
}

#[tokio::test]
async fn a_job_that_waits_for_another_try_shows_when_its_last_attempt_began() {
    let (db, api) = start(&[]).await;
    let job = submit(&api, JOB).await;
    let wait = std::time::Duration::from_secs(3_600);
    run(&db, job, Exit::Retry { reason: reason(), wait }).await;
    let shown = api.get(&format!("/jobs/{job}")).await;
    assert_eq!(
        (&shown["state"], &shown["attempt"], &shown["failures"]),
        (&json!("queued"), &json!(1), &json!(1))
    );
    let began = api.get(&format!("/jobs/{job}/events")).await["data"][1]["timestamp"].clone();
    assert_eq!(shown["started_at"], began);
    let cancelled = read(ask(&api, Method::POST, &format!("/jobs/{job}/cancel")).send().await.unwrap()).await;
    assert_eq!(cancelled["started_at"], began);
}

async fn page(api: &Api, query: &str) -> (Vec<String>, Value) {
    let page = api.get(&format!("/jobs?{query}")).await;
    let ids = page["data"].as_array().unwrap().iter().map(|job| job["job_id"].as_str().unwrap().to_owned());
    (ids.collect(), page.clone())
}

#[tokio::test]
async fn the_longest_page_has_each_job_once() {
    let (_db, api) = start(&[]).await;
    let answer = post(&api, "/jobs/batch", format!("{JOB}\n").repeat(250)).await.text().await.unwrap();
    let accepted = answer.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut all: Vec<String> = accepted.map(|line| line["job_id"].as_str().unwrap().to_owned()).collect();
    all.sort_unstable_by(|one, other| other.cmp(one));
    let (ids, page) = page(&api, "limit=500").await;
    assert_eq!(ids, all);
    assert_eq!(page["has_more"], false);
}

#[tokio::test]
async fn lists_are_paged_newest_first_and_filtered() {
    let (db, api) = start(&[]).await;
    db.run("INSERT INTO host_model VALUES ('gpu', 'tiny-b:latest', 'tiny-b:latest', true)").await;
    let mut all = Vec::new();
    for index in 0..9 {
        let model = if index % 3 == 0 { "tiny-b" } else { "tiny-a" };
        let body = format!(r#"{{"model":"{model}","prompt":"x"}}"#);
        let job = eventually("a known model", async || {
            let answer = post(&api, "/jobs", body.clone()).await;
            let status = answer.status();
            if status == 202 {
                Ok(read(answer).await["job_id"].as_str().unwrap().to_owned())
            } else {
                Err(status)
            }
        })
        .await;
        all.insert(0, job);
    }
    let mut seen = Vec::new();
    let mut after = String::new();
    loop {
        let (ids, page) = page(&api, &format!("limit=4{after}")).await;
        seen.extend(ids);
        if page["has_more"] == false {
            break;
        }
        after = format!("&after={}", page["last_id"].as_str().unwrap());
    }
    assert_eq!(seen, all);
    let (tiny_b, _) = page(&api, "model=Tiny-B:latest").await;
    assert_eq!(tiny_b, [&all[2], &all[5], &all[8]].map(String::clone));
    // One job in each room.
    let job = |index: usize| all[index].parse::<JobId>().unwrap();
    let holder = db.holder().await;
    ask(&api, Method::POST, &format!("/jobs/{}/cancel", all[0])).send().await.unwrap();
    let held = claim(&db, &holder, job(1)).await;
    let state = async |state: &str| page(&api, &format!("state={state}")).await.0;
    // A held job has not begun, so clients see it as queued.
    assert_eq!(state("queued").await, all[1..]);
    db.store.begin(&[(&held, Phase::Loading)]).await.unwrap();
    assert_eq!(state("loading").await, [all[1].clone()]);
    db.store.begin(&[(&held, Phase::Working)]).await.unwrap();
    assert_eq!(state("working").await, [all[1].clone()]);
    db.settle(&[(held, success())]).await.unwrap();
    assert_eq!(state("done").await, [all[1].clone()]);
    assert_eq!(state("cancelled").await, [all[0].clone()]);
    assert_eq!(state("failed").await, Vec::<String>::new());
    let (_, done) = page(&api, "state=done").await;
    assert!(done["data"][0].get("result").is_none());
    let artifact = &done["data"][0]["artifacts"][0];
    assert!(artifact.get("data").is_none() && artifact["url"].is_string(), "{artifact}");
}

/// Records a failed attempt of a webhook, as the dispatcher would.
async fn attempt(db: &Db, job: JobId, outcome: &str) -> String {
    let delivery: sqlx::types::Uuid = db
        .value(&format!(
            "INSERT INTO webhook_delivery (lane_id, job_id, seq, terminal, attempts, next_attempt_at)
             SELECT webhook_lane, id, 1, false, 1, now() + interval '1 hour' FROM job WHERE id = '{}' RETURNING id",
            job.uuid()
        ))
        .await;
    db.run(&format!(
        "INSERT INTO webhook_attempt (job_id, delivery_id, attempt, seq, lane_id, url, state, at, outcome, status, error_code,
                                      latency_ms, response)
         SELECT job_id, id, 1, seq, lane_id, 'http://127.0.0.1:9/', 'queued', now(), '{outcome}', 500, 'status_500', 12, 'no\\377'
         FROM webhook_delivery WHERE id = '{delivery}'"
    ))
    .await;
    if outcome != "retry" {
        db.run(&format!("DELETE FROM webhook_delivery WHERE id = '{delivery}'")).await;
    }
    foreman_store::DeliveryId::from(delivery).to_string()
}

#[tokio::test]
async fn deliveries_are_shown_with_every_attempt_and_can_be_sent_again() {
    let (db, api) = start(&[]).await;
    let job =
        submit(&api, r#"{"model":"tiny-a","prompt":"x","state_webhook_url":"http://127.0.0.1:9/"}"#).await;
    let path = format!("/jobs/{job}/deliveries");
    assert_eq!(api.get(&path).await, json!({"data": [], "has_more": false, "last_id": null}));
    let pending = attempt(&db, job, "retry").await;
    let failed = attempt(&db, job, "failed").await;

    let shown = api.get(&path).await;
    let of = |shown: &Value, id: &str| {
        shown["data"]
            .as_array()
            .unwrap()
            .iter()
            .find(|delivery| delivery["delivery_id"] == id)
            .unwrap()
            .clone()
    };
    let mut delivery = of(&shown, &failed);
    let at = delivery["attempts"][0]["at"].take();
    assert!(at.as_str().unwrap().ends_with('Z'));
    assert_eq!(
        delivery,
        json!({
            "delivery_id": failed, "seq": 1, "type": "job.queued", "url": "http://127.0.0.1:9/", "state": "failed",
            "next_attempt_at": null,
            "held_until": null,
            "attempts": [{"attempt": 1, "at": null, "status": 500, "error_code": "status_500", "latency_ms": 12, "response": "no\u{fffd}"}],
        })
    );
    assert_eq!(
        (&of(&shown, &pending)["state"], of(&shown, &pending)["next_attempt_at"].is_string()),
        (&json!("pending"), true)
    );

    let redeliver = async |id: &str| {
        ask(&api, Method::POST, &format!("/deliveries/{id}/redeliver")).send().await.unwrap()
    };
    let forward = redeliver(&pending).await;
    assert_eq!((forward.status().as_u16(), read(forward).await), (202, json!({"delivery_id": pending})));
    let due: bool = db.value("SELECT next_attempt_at <= now() FROM webhook_delivery").await;
    assert!(due, "a pending delivery is brought forward");
    let same = redeliver(&failed).await;
    assert_eq!(read(same).await["delivery_id"], pending, "another for the same event is pending already");
    db.run("DELETE FROM webhook_delivery").await;
    let again = read(redeliver(&failed).await).await["delivery_id"].as_str().unwrap().to_owned();
    assert_ne!(again, failed);
    let row: String =
        db.value("SELECT concat_ws('|', seq, terminal, redelivery, attempts) FROM webhook_delivery").await;
    assert_eq!(row, "1|f|t|0");
    assert_eq!(db.value::<i64>("SELECT count(*) FROM webhook_lane").await, 1, "a pruned lane is there again");
    db.run("UPDATE webhook_delivery SET claim_no = 1, claimed_at = now(), claimed_until = now() + interval '1 minute'").await;
    assert_eq!(problem(redeliver(&again).await, 409, "claimed").await, "being_sent");
}
