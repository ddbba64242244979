//! Making, changing and deleting endpoints, and what they are sent.

use foreman_store::Seal;
use foreman_tests::{Api, Received, Receiver, ReceiverAnswer, eventually, http};
use foreman_webhook::{SigningSecret, sign};
use reqwest::Method;
use serde_json::{Value, json};

use super::{House, KEY, QUICK, job, path_of};

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_told_to_its_own_url_and_to_every_endpoint_that_wants_it() {
    let house = House::start().await;
    let all = house.endpoint("/all", json!({"headers": {"Authorization": "Bearer mine"}})).await;
    house.endpoint("/ends", json!({"events": ["done", "failed"]})).await;
    house.endpoint("/other", json!({"models": ["TINY-B"]})).await;
    house.endpoint("/this", json!({"models": ["tiny-a", "tiny-b:latest"], "events": ["queued"]})).await;
    let own = json!({"model": "tiny-a", "state_webhook_url": house.receiver.url("/own")});
    house.run(own).await;
    house.until_all_is_sent().await;
    let states = ["queued", "loading", "working", "done"];
    assert_eq!(house.states_at("/own"), states);
    assert_eq!(house.states_at("/all"), states);
    assert_eq!(house.states_at("/ends"), ["done"]);
    assert_eq!(house.states_at("/this"), ["queued"]);
    assert_eq!(house.states_at("/other"), [""; 0]);

    let secret = SigningSecret::parse(all["secret"].as_str().unwrap()).unwrap();
    for request in house.receiver.received().iter().filter(|request| request.path == "/all") {
        let timestamp: i64 = request.header("webhook-timestamp").parse().unwrap();
        let expected = sign::headers(
            std::slice::from_ref(&secret),
            request.header("webhook-id"),
            timestamp,
            &request.body,
        );
        for (name, value) in expected {
            assert_eq!(request.header(name), value, "{name}");
        }
        assert_eq!(request.header("authorization"), "Bearer mine");
    }
    // Those of one millisecond come in any order.
    let page = house.api.get(&format!("{}/deliveries?limit=3", path_of(&all))).await;
    let after = page["last_id"].as_str().unwrap();
    let rest = house.api.get(&format!("{}/deliveries?status=delivered&after={after}", path_of(&all))).await;
    assert_eq!((&page["has_more"], &rest["has_more"]), (&json!(true), &json!(false)));
    let listed = [&page, &rest].map(|page| page["data"].as_array().unwrap().clone()).concat();
    let mut types: Vec<&str> = listed.iter().map(|delivery| delivery["type"].as_str().unwrap()).collect();
    types.sort_unstable();
    assert_eq!(types, ["job.done", "job.loading", "job.queued", "job.working"]);
    assert!(listed.iter().all(|delivery| delivery["state"] == "delivered" && delivery["status"] == 200));
    let since = async |time: &str| house.api.get(&format!("{}/deliveries?since={time}", path_of(&all))).await;
    let none = since("2100-01-01T00:00:00Z").await;
    assert_eq!(none["data"], json!([]));
    assert_eq!(since("0001-01-01T00:00:00Z").await["data"].as_array().unwrap().len(), 4, "Go's zero time");
    let shown = house.api.get(&path_of(&all)).await;
    assert_eq!(
        shown["health"],
        json!({
            "state": "proven", "held_until": null, "last_error": null, "pending": 0, "oldest_due_at": null
        })
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_url_never_gets_the_headers_that_were_for_the_old_one() {
    let house = House::start().await;
    let fields = |token: &str| json!({"headers": {"Authorization": token}, "events": ["queued"]});
    let made = house.endpoint("/0", fields("token 0")).await;
    for number in 0..4 {
        if number > 0 {
            let mut fields = fields(&format!("token {number}"));
            fields["url"] = house.receiver.url(&format!("/{number}")).into();
            house.change(&made, fields).await;
        }
        // The worker has read the headers just before the next change.
        house.run(job()).await;
        house.until_received(number + 1).await;
    }
    for request in house.receiver.received() {
        assert_eq!(request.header("authorization"), request.path.replace('/', "token "));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_health_of_an_endpoint_tells_that_its_receiver_fails_or_asks_for_time() {
    let answers = |request: &Received, _| match request.path.as_str() {
        "/asks" => ReceiverAnswer::With(503, "retry-after", "3600".to_owned()),
        // As of something in front of a receiver that is away.
        _ => ReceiverAnswer::Status(502),
    };
    let house = House::with(Receiver::answering(answers).await, &[KEY, QUICK]).await;
    let fails = house.endpoint("/fails", json!({"events": ["queued"]})).await;
    let health = async |endpoint: &Value| house.api.get(&path_of(endpoint)).await["health"].clone();
    assert_eq!(
        health(&fails).await,
        json!({"state": "never_tried", "held_until": null, "last_error": null, "pending": 0, "oldest_due_at": null})
    );
    // An event before the last has four attempts.
    house.run(job()).await;
    house.until_all_is_sent().await;
    assert_eq!(
        health(&fails).await,
        json!({
            "state": "failing", "held_until": null, "last_error": "status_5xx", "pending": 0, "oldest_due_at": null
        })
    );
    // The second attempt for the third job is the tenth that fails.
    house.run(job()).await;
    house.until_all_is_sent().await;
    house.run(job()).await;
    // What it tells beside its state, and whether that is there.
    let told = |health: &Value| {
        let is_told = |name: &str| health[name].is_string();
        (
            is_told("held_until"),
            health["last_error"].clone(),
            health["pending"].clone(),
            is_told("oldest_due_at"),
        )
    };
    eventually("an open lane", async || {
        let health = health(&fails).await;
        let is_open =
            health["state"] == "open" && told(&health) == (true, json!("status_5xx"), json!(1), true);
        if is_open { Ok(()) } else { Err(health) }
    })
    .await;

    house.ask(Method::DELETE, &path_of(&fails), Value::Null).await;
    let asks = house.endpoint("/asks", json!({"events": ["queued"]})).await;
    let asked = house.run(job()).await;
    eventually("a receiver that asked for time", async || {
        let health = health(&asks).await;
        let is_held =
            health["state"] == "never_tried" && told(&health) == (true, json!("status_503"), json!(1), false);
        if is_held { Ok(()) } else { Err(health) }
    })
    .await;
    let job = house.api.get(&format!("/jobs/{asked}/deliveries?status=pending")).await;
    assert_eq!(
        job["data"][0]["held_until"],
        health(&asks).await["held_until"],
        "the job's deliveries tell it too"
    );
    let held: bool = house
        .db
        .value("SELECT bool_and(not_before > now() + interval '50 minutes') FROM webhook_lane WHERE last_error = 'status_503'")
        .await;
    assert!(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_went_to_an_endpoint_is_not_sent_again_once_that_is_deleted() {
    let house = House::start().await;
    let made = house.endpoint("/in", json!({"events": ["done"]})).await;
    house.run(job()).await;
    house.until_all_is_sent().await;
    let sent = house.api.get(&format!("{}/deliveries", path_of(&made))).await;
    let again = format!("/deliveries/{}/redeliver", sent["data"][0]["delivery_id"].as_str().unwrap());
    house.ask(Method::DELETE, &path_of(&made), Value::Null).await;
    // The row of a deleted endpoint goes after a day.
    for forget in ["SELECT", "DELETE FROM webhook_endpoint"] {
        house.db.run(forget).await;
        let (status, refused) = house.ask(Method::POST, &again, Value::Null).await;
        assert_eq!((status.as_u16(), &refused["code"]), (409, &json!("endpoint_deleted")), "{forget}");
        assert_eq!(house.db.value::<i64>("SELECT count(*) FROM webhook_delivery").await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_is_made_shown_changed_and_deleted() {
    let house = House::start().await;
    let fields = json!({"description": "mine", "events": ["done"], "models": ["tiny-a"], "rate_limit": 5,
                        "headers": {"x-token": "hush"}});
    let made = house.endpoint("/in", fields).await;
    let secret = made["secret"].as_str().unwrap();
    assert!(secret.starts_with("whsec_") && secret.ends_with(made["secret_hint"].as_str().unwrap()));
    let shown = house.api.get(&path_of(&made)).await;
    for (name, value) in made.as_object().unwrap().iter().filter(|(name, _)| *name != "secret") {
        assert_eq!(shown[name], *value, "{name}");
    }
    assert_eq!(shown.get("secret"), None);
    assert_eq!(shown["header_names"], json!(["x-token"]));
    assert_eq!(shown["models"], json!(["tiny-a:latest"]));

    let cleared =
        json!({"description": null, "events": null, "models": null, "rate_limit": null, "headers": null});
    let changed = house.change(&made, cleared).await;
    let of = |name: &str| changed[name].clone();
    assert_eq!((of("description"), of("events"), of("models")), (json!(""), Value::Null, Value::Null));
    assert_eq!(
        (of("rate_limit"), of("header_names"), of("url")),
        (Value::Null, json!([]), made["url"].clone())
    );

    let (status, refused) =
        house.ask(Method::PATCH, &path_of(&made), json!({"url": "http://10.0.0.1/"})).await;
    assert_eq!((status.as_u16(), &refused["code"]), (422, &json!("webhook_address_refused")));
    let second = house.endpoint("/second", json!({})).await;
    let list = house.api.get("/webhooks?limit=1").await;
    assert_eq!((&list["data"][0]["endpoint_id"], &list["has_more"]), (&second["endpoint_id"], &json!(true)));
    let (status, _) = house.ask(Method::DELETE, &path_of(&made), Value::Null).await;
    assert_eq!(status, 204);
    for (method, action) in [
        (Method::GET, ""),
        (Method::PATCH, ""),
        (Method::DELETE, ""),
        (Method::POST, "/rotate"),
        (Method::POST, "/test"),
    ] {
        let (status, gone) = house.ask(method, &format!("{}{action}", path_of(&made)), json!({})).await;
        assert_eq!((status.as_u16(), &gone["code"]), (404, &json!("no_such_endpoint")), "{action}");
    }
    assert_eq!(house.api.get("/webhooks").await["data"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_misspelt_field_and_a_time_that_postgres_has_not_are_refused_and_change_nothing() {
    let house = House::start().await;
    let made = house.endpoint("/in", json!({})).await;
    let hint = &made["secret_hint"];
    for (action, body) in [
        ("rotate", json!({"overlap": 0})),
        ("test", json!({"state": "failed"})),
        ("recover", json!({"since": "2026-01-01T00:00:00Z", "until": "2026-01-02T00:00:00Z"})),
    ] {
        let (status, refused) = house.post(&made, action, body).await;
        assert_eq!(
            (status.as_u16(), &refused["code"]),
            (400, &json!("unknown_field")),
            "{action}: {refused}"
        );
    }
    assert_eq!(&house.api.get(&path_of(&made)).await["secret_hint"], hint);
    assert_eq!(house.receiver.received().len(), 0);
    let long = json!({"url": house.receiver.url("/in"), "x".repeat(1 << 20): 1});
    let (_, refused) = house.ask(Method::POST, "/webhooks", long).await;
    assert_eq!(refused["code"], "unknown_field");
    assert!(refused["error"].as_str().unwrap().len() < 300, "{refused}");
    let refused = house.api.get(&format!("{}/deliveries?since=-9999-01-01T00:00:00Z", path_of(&made))).await;
    assert_eq!(refused["code"], "invalid_parameter", "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_of_another_client_do_not_exist() {
    let house = House::with(Receiver::start().await, &[KEY, ("FOREMAN_AUTH", "required")]).await;
    let seal = Seal::new(&[1; 32]);
    let (one, other) = (
        house.db.store.create_client(&seal, "one", false).await.unwrap(),
        house.db.store.create_client(&seal, "other", false).await.unwrap(),
    );
    let call = async |key: &str, method: Method, path: &str, body: Value| {
        let request = http().request(method, format!("{}{path}", house.api.url)).bearer_auth(key);
        let answer = request.body(body.to_string()).send().await.unwrap();
        (answer.status().as_u16(), serde_json::from_str(&answer.text().await.unwrap()).unwrap_or(Value::Null))
    };
    let fields = json!({"url": house.receiver.url("/in")});
    let (status, made): (_, Value) = call(&one.key, Method::POST, "/webhooks", fields).await;
    assert_eq!(status, 201);
    let path = path_of(&made);
    for (method, action) in [
        (Method::GET, ""),
        (Method::PATCH, ""),
        (Method::DELETE, ""),
        (Method::POST, "/rotate"),
        (Method::POST, "/test"),
        (Method::POST, "/recover"),
        (Method::GET, "/deliveries"),
    ] {
        let body = if action == "/recover" { json!({"since": "2026-01-01T00:00:00Z"}) } else { json!({}) };
        let (status, gone) = call(&other.key, method, &format!("{path}{action}"), body).await;
        assert_eq!((status, &gone["code"]), (404, &json!("no_such_endpoint")), "{action}");
    }
    let (_, list) = call(&other.key, Method::GET, "/webhooks", Value::Null).await;
    assert_eq!(list["data"], json!([]));
    // A job of the other client is not told here.
    let job = json!({"model": "tiny-a", "prompt": "sim:tokens=1"});
    let (status, _) = call(&other.key, Method::POST, "/jobs?", job.clone()).await;
    assert_eq!(status, 202);
    let (status, _) = call(&one.key, Method::POST, "/jobs", job).await;
    assert_eq!(status, 202);
    house.db.every_job_ends().await;
    house.until_all_is_sent().await;
    assert_eq!(house.states_at("/in"), ["queued", "loading", "working", "done"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_has_a_hundred_endpoints_at_most_however_many_requests_come_at_once() {
    let house = House::start().await;
    let made = (0..110).map(|number| {
        let fields = json!({"url": house.receiver.url(&format!("/{number}"))});
        house.ask(Method::POST, "/webhooks", fields)
    });
    let statuses: Vec<u16> =
        futures_util::future::join_all(made).await.iter().map(|(status, _)| status.as_u16()).collect();
    let count = |wanted| statuses.iter().filter(|status| **status == wanted).count();
    assert_eq!((count(201), count(409)), (100, 10), "{statuses:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_secret_is_stored_readably_and_without_a_key_no_endpoint_is_made() {
    let house = House::with(Receiver::start().await, &[]).await;
    let (status, refused) =
        house.ask(Method::POST, "/webhooks", json!({"url": house.receiver.url("/")})).await;
    assert_eq!((status.as_u16(), &refused["code"]), (503, &json!("no_secret_key")));

    let house = House::start().await;
    let made = house.endpoint("/in", json!({"headers": {"x-token": "hush-hush"}})).await;
    house.post(&made, "rotate", Value::Null).await;
    let keyless = Api::start(&house.db, &[]).await;
    for (fields, expected) in [
        (json!({"disabled": true, "description": "the key is away"}), 200),
        (json!({"headers": {"x-token": "another"}}), 503),
    ] {
        let url = format!("{}{}", keyless.url, path_of(&made));
        let changed = http().patch(url).body(fields.to_string()).send().await.unwrap();
        assert_eq!(changed.status(), expected, "{fields}");
    }
    assert!(house.api.get(&path_of(&made)).await["disabled_at"].is_string());
    let row: String = house.db.value("SELECT row_to_json(w)::text FROM webhook_endpoint w").await;
    let bytes: Vec<u8> =
        house.db.value("SELECT secret || previous_secret || headers FROM webhook_endpoint").await;
    assert!(!row.contains("hush-hush") && !row.contains("whsec_"), "{row}");
    let readable = String::from_utf8_lossy(&bytes);
    assert!(!readable.contains("hush-hush") && !readable.contains("whsec_"), "{readable}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_example_is_signed_and_sent_and_its_answer_told() {
    let answers = |request: &Received, _| match request.path.as_str() {
        "/teapot" => ReceiverAnswer::Status(418),
        "/reset" => ReceiverAnswer::Reset,
        _ => ReceiverAnswer::Status(204),
    };
    let house = House::with(Receiver::answering(answers).await, &[KEY, QUICK]).await;
    let good = house.endpoint("/good", json!({"headers": {"x-token": "mine"}})).await;
    let (status, sent) = house.post(&good, "test", json!({"event": "failed"})).await;
    assert_eq!(status, 200, "{sent}");
    assert_eq!(
        (&sent["delivered"], &sent["status"], &sent["error_code"]),
        (&json!(true), &json!(204), &Value::Null)
    );
    let request = &house.receiver.received()[0];
    assert_eq!((request.json()["type"].as_str(), request.header("x-token")), (Some("job.failed"), "mine"));
    assert_eq!(request.json()["metadata"], json!({"example": true}));
    let secret = SigningSecret::parse(good["secret"].as_str().unwrap()).unwrap();
    let timestamp = request.header("webhook-timestamp").parse().unwrap();
    let expected = sign::headers(&[secret], request.header("webhook-id"), timestamp, &request.body);
    assert!(expected.iter().all(|(name, value)| request.header(name) == value));
    for (path, status) in [("/teapot", json!(418)), ("/reset", Value::Null)] {
        let endpoint = house.endpoint(path, json!({})).await;
        let (_, sent) = house.post(&endpoint, "test", Value::Null).await;
        assert_eq!((&sent["delivered"], &sent["status"]), (&json!(false), &status), "{sent}");
        assert!(sent["error_code"].is_string(), "{sent}");
    }
    let (status, refused) = house.post(&good, "test", json!({"event": "finished"})).await;
    assert_eq!((status.as_u16(), &refused["code"]), (400, &json!("invalid_event")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_asks_for_example_after_example_is_told_to_wait() {
    let house = House::start().await;
    let endpoint = house.endpoint("/in", json!({})).await;
    let mut refused = None;
    for _ in 0..40 {
        let (status, answer) = house.post(&endpoint, "test", Value::Null).await;
        if status != 200 {
            refused = Some((status.as_u16(), answer["code"].clone()));
            break;
        }
    }
    assert_eq!(refused, Some((429, json!("too_many_examples"))));
    assert!(house.receiver.count() >= 20, "{} examples", house.receiver.count());
}

#[tokio::test(flavor = "multi_thread")]
async fn during_a_rotation_webhooks_have_the_signatures_of_both_secrets() {
    let house = House::start().await;
    let made = house.endpoint("/in", json!({"events": ["queued"]})).await;
    house.run(job()).await;
    let before = house.until_received(1).await.pop().unwrap();
    assert_eq!(before.header("webhook-signature"), signature(&before, &made["secret"]));
    let (status, rotated) = house.post(&made, "rotate", Value::Null).await;
    assert_eq!(status, 200);
    let overlap =
        "SELECT extract(epoch FROM previous_until - updated_at)::float8 / 3600 FROM webhook_endpoint";
    assert_eq!(house.db.value::<f64>(overlap).await, 24.0);
    let until: String = house.db.value(
        "SELECT to_char(previous_until AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI') FROM webhook_endpoint"
    ).await;
    assert!(rotated["previous_secret_until"].as_str().unwrap().starts_with(&until), "{rotated}");
    house.run(job()).await;
    let last = house.until_received(2).await.pop().unwrap();
    let (new, old) = (signature(&last, &rotated["secret"]), signature(&last, &made["secret"]));
    assert_eq!(last.header("webhook-signature"), format!("{new} {old}"));
    let (_, again) = house.post(&made, "rotate", json!({"overlap_seconds": 0})).await;
    assert_eq!(again["previous_secret_until"], Value::Null);
    house.run(job()).await;
    let last = house.until_received(3).await.pop().unwrap();
    assert_eq!(last.header("webhook-signature"), signature(&last, &again["secret"]), "at once");
    for overlap in [json!(-1), json!(604_801), json!("1d"), json!(1.5)] {
        let (status, refused) = house.post(&made, "rotate", json!({"overlap_seconds": overlap})).await;
        assert_eq!((status.as_u16(), &refused["code"]), (400, &json!("invalid_overlap")), "{overlap}");
    }
}

/// The signature of this webhook with this secret.
fn signature(request: &Received, secret: &Value) -> String {
    let secret = SigningSecret::parse(secret.as_str().unwrap()).unwrap();
    let timestamp = request.header("webhook-timestamp").parse().unwrap();
    let headers = sign::headers(&[secret], request.header("webhook-id"), timestamp, &request.body);
    headers.into_iter().find(|(name, _)| *name == "webhook-signature").unwrap().1
}
