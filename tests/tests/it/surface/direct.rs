//! Tests what Ollama answers without a job, with workers that the test plays.

use axum::http::{Method, StatusCode, header};
use foreman_store::Seal;
use foreman_tests::{Api, Db, eventually, http};
use serde_json::{Value, json};

use super::played::Worker;

fn models(names: &[&str]) -> Value {
    let entry =
        |name: &&str| json!({"name": name, "model": name, "size": 1, "expires_at": "2026-11-22T06:39:45Z"});
    json!({"models": names.iter().map(entry).collect::<Vec<_>>()})
}

fn openai_models(names: &[&str]) -> Value {
    let entry = |name: &&str| json!({"id": name, "object": "model", "created": 1, "owned_by": "library"});
    json!({"object": "list", "data": names.iter().map(entry).collect::<Vec<_>>()})
}

async fn get(api: &Api, path: &str) -> Value {
    let answer = http().get(format!("{}{path}", api.url)).send().await.unwrap();
    serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
}

async fn post(api: &Api, path: &str, body: Value) -> reqwest::Response {
    http().post(format!("{}{path}", api.url)).body(body.to_string()).send().await.unwrap()
}

fn names(listing: &Value, list: &str, name: &str) -> Vec<String> {
    let entries = listing[list].as_array();
    entries.into_iter().flatten().map(|entry| entry[name].as_str().unwrap().to_owned()).collect()
}

/// Waits until the api lists these models.
async fn lists(api: &Api, expected: &[&str]) {
    eventually("the models of all hosts", async || {
        let listed = names(&get(api, "/api/tags").await, "models", "name");
        if listed == expected { Ok(()) } else { Err(listed.join(", ")) }
    })
    .await;
}

#[tokio::test]
async fn the_listings_of_all_hosts_are_one() {
    let db = Db::fresh().await;
    let answers = |names: &[&str]| {
        [
            ("/api/tags", models(names)),
            ("/api/ps", models(&names[..1])),
            ("/v1/models", openai_models(names)),
            ("/api/version", json!({"version": "0.32.15"})),
        ]
    };
    let one = Worker::start(&db, "host-a", &answers(&["x:latest", "y:latest"])).await;
    let _second_of_one = Worker::start(&db, "host-a", &answers(&["x:latest", "y:latest"])).await;
    let two = Worker::start(&db, "host-b", &answers(&["z:latest", "x:latest"])).await;
    let api = Api::start(&db, &[]).await;
    lists(&api, &["x:latest", "y:latest", "z:latest"]).await;
    assert_eq!(names(&get(&api, "/api/ps").await, "models", "name"), ["x:latest", "z:latest"]);
    let openai = get(&api, "/v1/models").await;
    assert_eq!(openai["object"], "list");
    assert_eq!(names(&openai, "data", "id"), ["x:latest", "y:latest", "z:latest"]);
    assert_eq!(get(&api, "/api/version").await, json!({"version": "0.32.15"}));
    for path in ["/", "/api/tags", "/api/version"] {
        let answer = http().head(format!("{}{path}", api.url)).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        assert!(answer.bytes().await.unwrap().is_empty());
    }
    for (headers, _) in one.seen("/api/tags") {
        assert!(
            !headers.contains_key("x-forwarded-for") && !headers.contains_key(header::USER_AGENT),
            "{headers:?}"
        );
    }

    // A host that hangs, and one that is gone, are answered for by what they said before.
    one.hang(true);
    two.hang(true);
    let asked = one.seen("/api/ps").len();
    eventually("a new question", async || {
        assert_eq!(names(&get(&api, "/api/ps").await, "models", "name"), ["x:latest", "z:latest"]);
        if one.seen("/api/ps").len() > asked { Ok(()) } else { Err(asked) }
    })
    .await;
    assert_eq!(names(&get(&api, "/api/tags").await, "models", "name"), ["x:latest", "y:latest", "z:latest"]);
    db.run("DELETE FROM worker").await;
    lists(&api, &["x:latest", "y:latest", "z:latest"]).await;
    assert_eq!(get(&api, "/api/version").await, json!({"version": "0.32.15"}));
}

#[tokio::test]
async fn without_any_worker_the_listings_say_so_and_the_version_needs_no_key() {
    let db = Db::fresh().await;
    let key = db.store.create_client(&Seal::new(&[7; 32]), "team", false).await.unwrap().key;
    let api = Api::start(&db, &[("FOREMAN_AUTH", "required")]).await;
    let version = http().get(format!("{}/api/version", api.url)).send().await.unwrap();
    assert_eq!(version.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(version.headers().contains_key(header::RETRY_AFTER));
    let refused: Value = serde_json::from_slice(&version.bytes().await.unwrap()).unwrap();
    assert!(refused["error"].as_str().unwrap().contains("start foreman-worker"), "{refused}");
    for (method, path) in [
        (Method::GET, "/api/tags"),
        (Method::GET, "/api/ps"),
        (Method::GET, "/v1/models"),
        (Method::GET, "/v1/models/x"),
        (Method::POST, "/api/show"),
        (Method::POST, "/api/embed"),
    ] {
        let request =
            || http().request(method.clone(), format!("{}{path}", api.url)).body(r#"{"model":"x"}"#);
        assert_eq!(request().send().await.unwrap().status(), StatusCode::UNAUTHORIZED, "{path}");
        let answer = request().bearer_auth(&key).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE, "{path}");
    }
}

#[tokio::test]
async fn a_host_that_has_the_model_shows_it() {
    let db = Db::fresh().await;
    let shows = |host: &str| [("/api/show", json!({"license": host})), ("/v1/models/y", json!({"id": "y"}))];
    let one =
        Worker::start(&db, "host-a", &[&[("/api/tags", models(&["x:latest"]))][..], &shows("a")].concat())
            .await;
    let two =
        Worker::start(&db, "host-b", &[&[("/api/tags", models(&["y:latest"]))][..], &shows("b")].concat())
            .await;
    let api = Api::start(&db, &[]).await;
    lists(&api, &["x:latest", "y:latest"]).await;
    for _ in 0..5 {
        let shown = post(&api, "/api/show", json!({"name": "Y"})).await.text().await.unwrap();
        assert_eq!(shown, r#"{"license":"b"}"#);
        assert_eq!(get(&api, "/v1/models/y").await["id"], "y");
    }
    assert_eq!((two.seen("/api/show").len(), two.seen("/v1/models/y").len()), (1, 1), "the rest was kept");
    assert!(one.seen("/api/show").is_empty());
    // What no host has is refused by an Ollama, in its own words.
    let answer = http().get(format!("{}/v1/models/nope", api.url)).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::NOT_FOUND);
    assert_eq!(answer.text().await.unwrap(), r#"{"error":"not found at /v1/models/nope"}"#);
    let refused = post(&api, "/api/show", Value::from(5)).await;
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    let refused: Value = serde_json::from_slice(&refused.bytes().await.unwrap()).unwrap();
    assert_eq!(refused["error"], "json: cannot unmarshal number into Go value of type api.ShowRequest");
}

#[tokio::test]
async fn embeddings_go_to_hosts_in_turn_without_keep_alive_and_end_when_the_caller_goes() {
    let db = Db::fresh().await;
    let answers = [("/api/tags", models(&["e:latest"])), ("/api/embed", json!({"embeddings": [[0.5]]}))];
    let one = Worker::start(&db, "host-a", &answers).await;
    let two = Worker::start(&db, "host-b", &answers).await;
    let other = Worker::start(&db, "host-c", &[("/api/tags", models(&["x:latest"]))]).await;
    let api = Api::start(&db, &[]).await;
    lists(&api, &["e:latest", "x:latest"]).await;
    for _ in 0..4 {
        let body = json!({"model": "e", "input": "sky", "keep_alive": -1});
        let answer = post(&api, "/api/embed", body).await;
        assert_eq!(
            (answer.status(), answer.text().await.unwrap().as_str()),
            (StatusCode::OK, r#"{"embeddings":[[0.5]]}"#)
        );
    }
    for worker in [&one, &two] {
        let seen = worker.seen("/api/embed");
        assert_eq!(seen.len(), 2);
        assert!(seen.iter().all(|(_, body)| *body == json!({"model": "e", "input": "sky"})), "{seen:?}");
    }
    assert!(other.seen("/api/embed").is_empty());

    // One client has its part of what may be under way, and a caller that hangs up ends its request.
    one.hang(true);
    two.hang(true);
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let request = http().post(format!("{}/api/embed", api.url)).body(r#"{"model":"e"}"#);
        callers.spawn(async move { request.send().await.map(|answer| answer.status()) });
    }
    one.under_way(32).await;
    two.under_way(32).await;
    let refused = post(&api, "/api/embed", json!({"model": "e"})).await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(refused.headers().contains_key(header::RETRY_AFTER));
    callers.shutdown().await;
    one.under_way(0).await;
    two.under_way(0).await;
    one.hang(false);
    two.hang(false);
    eventually("room", async || match post(&api, "/api/embed", json!({"model": "e"})).await.status() {
        StatusCode::OK => Ok(()),
        status => Err(status),
    })
    .await;
}

#[tokio::test]
async fn a_model_that_may_embed_is_asked_and_one_that_cannot_is_not() {
    let db = Db::fresh().await;
    let listing = |abilities: Value| {
        let entry = |name: &str| json!({"name": name, "model": name, "capabilities": abilities});
        json!({"models": [entry("m:latest")]})
    };
    let show = |abilities: Value, info: Value| json!({"capabilities": abilities, "model_info": info});
    let (chat, embed) = (json!(["completion"]), json!(["embedding"]));
    let shown = |shown: Value| vec![("/api/show", shown)];
    for (listed, shown, is_asked) in [
        (&embed, vec![], true),
        // An Ollama that lists no abilities embeds with every model.
        (&Value::Null, shown(show(chat.clone(), json!({}))), true),
        // What a host lists was seen to be wrong.
        (&chat, shown(show(embed.clone(), json!({}))), true),
        (&chat, shown(show(chat.clone(), json!({"llama.pooling_type": 1}))), true),
        // Nothing is known.
        (&chat, vec![], true),
        (&chat, shown(json!({"license": "x"})), true),
        (&chat, shown(show(chat.clone(), json!({"llama.block_count": 1}))), false),
        (&chat, shown(show(chat.clone(), Value::Null)), false),
    ] {
        db.run("DELETE FROM worker").await;
        let told = format!("{listed} {shown:?}");
        let answers =
            [("/api/tags", listing(listed.clone())), ("/api/embed", json!({"embeddings": [[0.5]]}))];
        let worker = Worker::start(&db, "host-a", &[&answers[..], &shown].concat()).await;
        let api = Api::start(&db, &[]).await;
        lists(&api, &["m:latest"]).await;
        let answer = post(&api, "/api/embed", json!({"model": "m", "input": "sky"})).await;
        let status = if is_asked { StatusCode::OK } else { StatusCode::NOT_IMPLEMENTED };
        assert_eq!(answer.status(), status, "{told}");
        assert_eq!(worker.seen("/api/embed").len(), usize::from(is_asked), "{told}");
    }
}
