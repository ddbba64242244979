//! Tests what Ollama answers without a job, with a real worker: as Ollama itself, and never around the queue.

use foreman_tests::{Api, Db, Worker, eventually, http};
use ollama_sim::{Config, Model, Sim};
use reqwest::StatusCode;
use serde_json::{Value, json};

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

async fn lists_models(api: &Api) {
    eventually("the models of the host", async || {
        let (status, listed) = ask(&api.url, "/api/tags", None).await;
        if status == StatusCode::OK { Ok(()) } else { Err(listed) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_passes_on_what_its_ollama_answers() {
    let db = Db::fresh().await;
    let sim = an_ollama().await;
    let key = [("FOREMAN_SECRET_KEY", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")];
    let _worker = Worker::start(&db, &sim.url(), &key).await;
    let api = Api::start(&db, &key).await;
    lists_models(&api).await;
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
    let _worker = Worker::start(&db, &sim.url(), &[]).await;
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

/// Each side has an Ollama of its own, because a request may load a model.
#[tokio::test(flavor = "multi_thread")]
async fn an_unload_and_a_model_that_cannot_embed_are_answered_without_ollama() {
    let db = Db::fresh().await;
    let (sim, other) = (an_ollama().await, an_ollama().await);
    let _worker = Worker::start(&db, &sim.url(), &[]).await;
    let direct = Api::start(&db, &[]).await;
    let queued = Api::start(&db, &[("FOREMAN_EMBED", "queued")]).await;
    lists_models(&direct).await;
    let unloads = [
        ("/api/embed", json!({"model": "tiny-embed", "input": [], "keep_alive": 0})),
        ("/api/embed", json!({"model": "Tiny-Embed:latest", "keep_alive": "0s"})),
        ("/api/embed", json!({"model": "nope", "input": [], "keep_alive": 0})),
        ("/api/embeddings", json!({"model": "tiny-embed", "prompt": "", "keep_alive": 0})),
    ];
    let cannot = [
        ("/api/embed", json!({"model": "tiny-a", "input": "the sky"})),
        ("/api/embed", json!({"model": "tiny-a", "input": ["the sky"], "keep_alive": 0})),
        ("/api/embed", json!({"model": "tiny-a", "input": []})),
        ("/api/embeddings", json!({"model": "tiny-a", "prompt": "the sky"})),
        ("/v1/embeddings", json!({"model": "tiny-a", "input": "the sky"})),
    ];
    for (api, bodies) in [(&direct, &unloads[..]), (&queued, &unloads[..]), (&direct, &cannot[..])] {
        for (path, body) in bodies {
            let ours = ask(&api.url, path, Some(body.clone())).await;
            assert_eq!(ours, ask(&other.url(), path, Some(body.clone())).await, "{path} {body}");
        }
    }
    assert!(other.log().records.len() > sim.log().records.len());
    assert_eq!(sim.log().records.len(), 0, "{:?}", sim.log().records);
    assert_eq!(db.value::<i64>("SELECT count(*) FROM job").await, 0);
}
