//! Tests what Ollama answers without a job: with workers that the test plays, and with a real one.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use foreman_store::Seal;
use foreman_tests::{Api, Db, eventually, http};
use ollama_sim::{Config, Model, Sim};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;

/// A worker and its Ollama, as an api sees them.
#[derive(Clone)]
struct Worker(Arc<Inner>);

struct Inner {
    address: SocketAddr,
    answers: BTreeMap<&'static str, Value>,
    seen: Mutex<Vec<(String, HeaderMap, Bytes)>>,
    /// While it is true, requests hang.
    hangs: watch::Sender<bool>,
    /// Requests that are being answered.
    under_way: watch::Sender<usize>,
}

impl Worker {
    /// Starts a worker of this host that answers so, and makes it known.
    async fn start(db: &Db, host: &str, answers: &[(&'static str, Value)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let worker = Self(Arc::new(Inner {
            address: listener.local_addr().unwrap(),
            answers: answers.iter().cloned().collect(),
            seen: Mutex::default(),
            hangs: watch::Sender::new(false),
            under_way: watch::Sender::new(0),
        }));
        let router = Router::new().fallback(answer).with_state(worker.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        db.run(&format!(
            "INSERT INTO worker (id, host_id, roles, ttl, stream_url)
             VALUES (gen_random_uuid(), '{host}', '{{run}}', interval '20 s', 'http://{}')",
            worker.0.address
        ))
        .await;
        worker
    }

    fn hang(&self, hangs: bool) {
        self.0.hangs.send_replace(hangs);
    }

    /// The requests for a path, each with its headers and its body.
    fn seen(&self, path: &str) -> Vec<(HeaderMap, Value)> {
        let seen = self.0.seen.lock().unwrap();
        let of_path = seen.iter().filter(|(at, ..)| at == path);
        of_path
            .map(|(_, headers, body)| (headers.clone(), serde_json::from_slice(body).unwrap_or_default()))
            .collect()
    }

    async fn under_way(&self, count: usize) {
        let mut under_way = self.0.under_way.subscribe();
        timeout(Duration::from_secs(30), under_way.wait_for(|now| *now == count)).await.unwrap().unwrap();
    }
}

struct UnderWay(Worker);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.0.under_way.send_modify(|count| *count -= 1);
    }
}

async fn answer(State(worker): State<Worker>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let path = head.uri.path().strip_prefix("/ollama").unwrap().to_owned();
    worker.0.under_way.send_modify(|count| *count += 1);
    let _under_way = UnderWay(worker.clone());
    worker.0.seen.lock().unwrap().push((path.clone(), head.headers, body));
    worker.0.hangs.subscribe().wait_for(|hangs| !hangs).await.unwrap();
    match worker.0.answers.get(&*path) {
        Some(answer) => answer.to_string().into_response(),
        None => (StatusCode::NOT_FOUND, json!({"error": format!("not found at {path}")}).to_string())
            .into_response(),
    }
}

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

/// An Ollama with a model that chats and one that embeds.
async fn an_ollama() -> Sim {
    let mut config = Config::default().models(["tiny-a"]);
    config.models.push(Model::parse("tiny-embed+embedding").unwrap());
    Sim::start(config).await.unwrap()
}

/// The status and the body of an answer, without durations.
async fn ask(url: &str, path: &str, body: Option<Value>) -> (StatusCode, Value) {
    let url = format!("{url}{path}");
    let request = match body {
        Some(body) => http().post(url).body(body.to_string()),
        None => http().get(url),
    };
    let answer = request.send().await.unwrap();
    let (status, text) = (answer.status(), answer.text().await.unwrap());
    let mut body: Value = serde_json::from_str(&text).unwrap_or(Value::String(text));
    for measured in ["total_duration", "load_duration"] {
        body.as_object_mut().and_then(|body| body.remove(measured));
    }
    (status, body)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_passes_on_what_its_ollama_answers() {
    let db = Db::fresh().await;
    let sim = an_ollama().await;
    let key = [("FOREMAN_SECRET_KEY", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")];
    let _worker = foreman_tests::Worker::start(&db, &sim.url(), &key).await;
    let api = Api::start(&db, &key).await;
    eventually("the models of the host", async || {
        let (status, listed) = ask(&api.url, "/api/tags", None).await;
        if status == StatusCode::OK { Ok(()) } else { Err(listed) }
    })
    .await;
    let embed = |model: &str| Some(json!({"model": model, "input": "the sky"}));
    for (path, body) in [
        ("/api/tags", None),
        ("/api/version", None),
        ("/v1/models", None),
        ("/v1/models/tiny-a", None),
        ("/v1/models/nope", None),
        ("/api/show", Some(json!({"model": "tiny-a"}))),
        ("/api/show", Some(json!({"model": "nope"}))),
        ("/api/show", Some(json!({}))),
        ("/api/embed", embed("tiny-embed")),
        ("/api/embed", embed("nope")),
        ("/api/embed", Some(json!({"model": "tiny-embed", "input": 5}))),
        ("/api/embeddings", Some(json!({"model": "tiny-embed", "prompt": "the sky"}))),
        ("/v1/embeddings", embed("tiny-embed")),
        ("/v1/embeddings", embed("nope")),
    ] {
        let [ours, ollamas] =
            [ask(&api.url, path, body.clone()).await, ask(&sim.url(), path, body.clone()).await];
        assert_eq!(ours, ollamas, "{path} {body:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn queued_embeddings_are_jobs_and_answer_as_ollama_does() {
    let db = Db::fresh().await;
    let sim = an_ollama().await;
    let _worker = foreman_tests::Worker::start(&db, &sim.url(), &[]).await;
    let api = Api::start(&db, &[("FOREMAN_EMBED", "queued")]).await;
    let embed = |model: &str| json!({"model": model, "input": "the sky"});
    let mut kept = embed("tiny-embed");
    kept["keep_alive"] = (-1).into();
    for (path, body) in [
        ("/api/embed", embed("tiny-embed")),
        ("/api/embed", kept),
        ("/api/embed", embed("nope")),
        ("/api/embed", json!({"model": "tiny-embed", "input": 5})),
        ("/api/embeddings", json!({"model": "tiny-embed", "prompt": "the sky"})),
        ("/v1/embeddings", embed("tiny-embed")),
        ("/v1/embeddings", embed("nope")),
    ] {
        let ours = ask(&api.url, path, Some(body.clone())).await;
        assert_eq!(ours, ask(&sim.url(), path, Some(body.clone())).await, "{path} {body}");
    }
    db.every_job_ends().await;
    let done: Vec<String> = db
        .values(
            "SELECT j.path FROM job j JOIN job_done d ON d.job_id = j.id WHERE d.state = 'done' ORDER BY j.id",
        )
        .await;
    assert_eq!(done, ["/api/embed", "/api/embed", "/api/embeddings", "/v1/embeddings"]);
    assert_eq!(db.value::<i64>("SELECT count(*) FROM job WHERE body LIKE '%keep_alive%'").await, 0);
}
