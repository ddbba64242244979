//! Which contexts reload a model and what `/api/ps` says of them: the sequences that were tried on an Ollama v0.32.15, with a
//! model of length 32768.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use ollama_sim::{Config, Model, Sim};
use reqwest::Client;
use serde_json::{Value, json};

/// A request: what it says of the context, and where it goes.
#[derive(Clone, Copy, Debug)]
enum Ask {
    Names(i64),
    NamesNone,
    /// `/v1` cannot name a context.
    OnV1,
    /// A load that names a context.
    Preload(i64),
    /// Another name for the same weights, without a context.
    OtherName,
}

use Ask::{Names, NamesNone, OnV1, OtherName, Preload};

/// The loads that a sequence of requests causes, one by one, and the context that `/api/ps` lists after each.
async fn seen(config: Config, asks: &[Ask]) -> (Vec<u64>, Vec<i64>) {
    _ = rustls::crypto::ring::default_provider().install_default();
    let mut model = Model::new("tiny-a");
    model.context_length = 32_768;
    let other = Model { context_length: 32_768, ..Model::new("other").on_the_weights_of(&model) };
    let sim = Sim::start(Config { models: vec![model, other], tokens: 1, ..config }).await.unwrap();
    let client = Client::builder().no_proxy().build().unwrap();
    let (mut loads, mut lengths) = (Vec::new(), Vec::new());
    for ask in asks {
        let messages = json!([{"role": "user", "content": "x"}]);
        let (path, body) = match ask {
            Names(length) => (
                "/api/chat",
                json!({"model": "tiny-a", "messages": messages, "options": {"num_ctx": length}}),
            ),
            NamesNone => ("/api/chat", json!({"model": "tiny-a", "messages": messages})),
            OnV1 => ("/v1/chat/completions", json!({"model": "tiny-a", "messages": messages})),
            Preload(length) => {
                ("/api/chat", json!({"model": "tiny-a", "messages": [], "options": {"num_ctx": length}}))
            }
            OtherName => ("/api/chat", json!({"model": "other", "messages": messages})),
        };
        let before = sim.look(|log| log.loads);
        let answer = client.post(format!("{}{path}", sim.url())).body(body.to_string()).send().await.unwrap();
        assert!(answer.status().is_success(), "{ask:?}");
        answer.bytes().await.unwrap();
        loads.push(sim.look(|log| log.loads) - before);
        let listed = client.get(format!("{}/api/ps", sim.url())).send().await.unwrap().bytes().await.unwrap();
        let listed: Value = serde_json::from_slice(&listed).unwrap();
        lengths.push(listed["models"][0]["context_length"].as_i64().unwrap());
    }
    (loads, lengths)
}

async fn here(asks: &[Ask]) -> (Vec<u64>, Vec<i64>) {
    seen(Config::default(), asks).await
}

#[tokio::test]
async fn the_automatic_runner_serves_its_own_length() {
    assert_eq!(here(&[NamesNone, Names(4096), NamesNone]).await, (vec![1, 0, 0], vec![4096; 3]));
    let longer = Config { context_length: 8192, ..Config::default() };
    let asks = [NamesNone, Names(8192), NamesNone, Names(4096)];
    assert_eq!(seen(longer, &asks).await, (vec![1, 0, 0, 1], vec![8192, 8192, 8192, 4096]));
}

#[tokio::test]
async fn another_length_loads_and_so_does_none_after_one_that_was_named() {
    let asks = [NamesNone, Names(1024), Names(8192), Names(4096), NamesNone];
    assert_eq!(here(&asks).await, (vec![1; 5], vec![4096, 1024, 8192, 4096, 4096]));
}

#[tokio::test]
async fn what_is_longer_than_the_model_is_the_length_of_the_model() {
    let asks = [Names(100_000), Names(50_000), Names(32_768), Names(40_000)];
    assert_eq!(here(&asks).await, (vec![1, 0, 0, 0], vec![32_768; 4]));
}

#[tokio::test]
async fn what_is_too_short_is_four() {
    assert_eq!(here(&[Names(0), Names(-1), Names(1), Names(4)]).await, (vec![1, 0, 0, 0], vec![4; 4]));
}

#[tokio::test]
async fn v1_and_native_without_a_length_share_the_automatic_runner() {
    let asks = [Names(8192), OnV1, NamesNone, OtherName, OnV1];
    assert_eq!(here(&asks).await, (vec![1, 1, 0, 0, 0], vec![8192, 4096, 4096, 4096, 4096]));
}

#[tokio::test]
async fn a_preload_counts_like_a_request() {
    let asks = [Preload(8192), Names(8192), Preload(8192), Preload(1024), NamesNone];
    assert_eq!(here(&asks).await, (vec![1, 0, 0, 1, 1], vec![8192, 8192, 8192, 1024, 4096]));
}
