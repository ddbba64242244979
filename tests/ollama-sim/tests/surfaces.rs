//! The routes of `/v1` and of embeddings, where the recordings show nothing: faults, clients that go away, the order of
//! pieces, and what the log tells of them.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use ollama_sim::{Config, Fault, Happening, Kind, Log, Model, Moment, Outcome, Sim, Trouble};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, Response};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

/// The routes that stream.
const STREAMING: [&str; 4] = ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"];
const EMBEDDING: [&str; 3] = ["/api/embed", "/api/embeddings", "/v1/embeddings"];

struct Rig {
    sim: Sim,
    client: Client,
}

impl Rig {
    async fn new(config: Config) -> Self {
        _ = rustls::crypto::ring::default_provider().install_default();
        let mut models = Config::default().models;
        models.push(Model::parse("tiny-embed+embedding").unwrap());
        let sim = Sim::start(Config { models, ..config }).await.unwrap();
        Self { sim, client: Client::builder().no_proxy().build().unwrap() }
    }

    async fn post(&self, path: &str, body: String) -> reqwest::Result<Response> {
        self.client.post(format!("{}{path}", self.sim.url())).body(body).send().await
    }

    /// Status, content type and text.
    async fn answer(&self, path: &str, body: String) -> (u16, String, String) {
        let answer = self.post(path, body).await.unwrap();
        let kind = answer.headers()[CONTENT_TYPE].to_str().unwrap().to_owned();
        (answer.status().as_u16(), kind, answer.text().await.unwrap())
    }

    fn ask(&self, path: &str, body: String) -> JoinHandle<reqwest::Result<String>> {
        let request = self.client.post(format!("{}{path}", self.sim.url())).body(body);
        tokio::spawn(async move { request.send().await?.text().await })
    }

    fn outcomes(&self) -> Vec<Outcome> {
        self.sim.look(|log| log.records.iter().filter_map(|record| record.outcome.clone()).collect())
    }

    async fn idle(&self) {
        self.sim.until(|log| log.in_flight() == 0 && log.running() == 0).await;
    }
}

/// A request for a route, with the prompt where the route wants it.
fn body(path: &str, prompt: &str, stream: bool) -> String {
    let messages = json!([{"role": "user", "content": prompt}]);
    let body = match path {
        "/v1/chat/completions" => json!({"model": "tiny-a", "stream": stream, "messages": messages}),
        "/v1/completions" => json!({"model": "tiny-a", "stream": stream, "prompt": prompt}),
        "/v1/responses" => json!({"model": "tiny-a", "stream": stream, "input": prompt}),
        "/v1/messages" => {
            json!({"model": "tiny-a", "stream": stream, "max_tokens": 1_000, "messages": messages})
        }
        "/api/embeddings" => json!({"model": "tiny-embed", "prompt": prompt}),
        _ => json!({"model": "tiny-embed", "input": prompt}),
    };
    body.to_string()
}

/// The data of all events of a stream, without the end mark of OpenAI.
fn events(text: &str) -> Vec<Value> {
    assert!(text.is_empty() || text.ends_with("\n\n"), "every event is complete: {text}");
    let data = text.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]");
    data.map(|data| serde_json::from_str(data).unwrap()).collect()
}

/// The text that an event adds to the answer.
fn told(event: &Value) -> &str {
    [
        &event["choices"][0]["delta"]["content"],
        &event["choices"][0]["text"],
        &event["delta"]["text"],
        &event["delta"],
    ]
    .into_iter()
    .find_map(Value::as_str)
    .unwrap_or_default()
}

/// The text of an answer that is one object.
fn whole_text(answer: &Value) -> &str {
    [
        &answer["choices"][0]["message"]["content"],
        &answer["choices"][0]["text"],
        &answer["output"][0]["content"][0]["text"],
        &answer["content"][0]["text"],
    ]
    .into_iter()
    .find_map(Value::as_str)
    .unwrap()
}

fn is_whole(path: &str, text: &str) -> bool {
    text.ends_with(match path {
        "/v1/responses" => "\"type\":\"response.completed\"}\n\n",
        "/v1/messages" => "data: {\"type\":\"message_stop\"}\n\n",
        _ => "data: [DONE]\n\n",
    })
}

#[tokio::test]
async fn a_stream_tells_the_same_text_in_order_as_the_whole_answer() {
    let rig = Rig::new(Config::default()).await;
    for path in STREAMING {
        let prompt = "sim:tokens=50";
        let (_, kind, stream) = rig.answer(path, body(path, prompt, true)).await;
        let (_, whole_kind, whole) = rig.answer(path, body(path, prompt, false)).await;
        assert_eq!((kind.as_str(), whole_kind.as_str()), ("text/event-stream", "application/json"), "{path}");
        let texts: Vec<_> = events(&stream).iter().map(told).map(str::to_owned).collect();
        assert_eq!(texts.iter().filter(|text| !text.is_empty()).count(), 50, "{path}");
        assert_eq!(texts.concat(), whole_text(&serde_json::from_str(&whole).unwrap()), "{path}");
        assert!(is_whole(path, &stream), "{path}: {stream}");
    }
}

#[tokio::test]
async fn a_runner_that_dies_in_mid_stream_loses_the_error_text() {
    let rig = Rig::new(Config::default()).await;
    for path in STREAMING {
        rig.sim.reset();
        let (status, kind, text) = rig.answer(path, body(path, "sim:fault=killed@2", true)).await;
        assert_eq!((status, kind.as_str()), (200, "text/event-stream"), "{path}");
        assert!(!is_whole(path, &text) && !text.contains("error was encountered"), "{path}: {text}");
        let events = events(&text);
        let texts = events.iter().filter(|event| !told(event).is_empty()).count();
        assert_eq!(texts, 2, "{path}: {text}");
        let last = events.last().unwrap();
        match path {
            "/v1/chat/completions" => assert_eq!(
                (&last["model"], &last["choices"]),
                (&json!(""), &json!([{"index": 0, "delta": {}, "finish_reason": null}]))
            ),
            "/v1/completions" => assert_eq!(
                (&last["model"], &last["choices"]),
                (&json!(""), &json!([{"text": "", "index": 0, "finish_reason": null}]))
            ),
            _ => assert!(!told(last).is_empty(), "the stream just ends: {text}"),
        }
        assert_eq!(rig.outcomes(), [Outcome::Failed], "{path}");
    }
}

#[tokio::test]
async fn errors_before_the_first_token_have_the_form_of_their_route() {
    let rig = Rig::new(Config::default()).await;
    let busy = "server busy, please try again.  maximum pending requests exceeded";
    let stopped = "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, \
                   check ollama server logs for details";
    let loading = "llama-server process has terminated: signal: killed";
    for (prompt, status, text) in [
        ("sim:fault=busy", 503, busy),
        ("sim:fault=killed", 500, stopped),
        ("sim:fault=killed@load", 500, loading),
        ("sim:fault=error=418", 418, "the simulator was told to fail"),
    ] {
        for path in STREAMING {
            for stream in [true, false] {
                rig.sim.reset();
                let (got, kind, answer) = rig.answer(path, body(path, prompt, stream)).await;
                assert_eq!((got, kind.as_str()), (status, "application/json"), "{path} {prompt}");
                let answer: Value = serde_json::from_str(&answer).unwrap();
                let expected = match (path, status) {
                    ("/v1/messages", 503) => json!({"type": "overloaded_error", "message": text}),
                    ("/v1/messages", _) => json!({"type": "api_error", "message": text}),
                    _ => json!({"message": text, "type": "api_error", "param": null, "code": null}),
                };
                assert_eq!(answer["error"], expected, "{path} {prompt}");
                assert_eq!(rig.outcomes(), [Outcome::Refused(status)], "{path} {prompt}");
            }
        }
    }
    let gone = "do embedding request: Post \"http://127.0.0.1:40557/embedding\": EOF";
    for (path, status) in [("/api/embed", 400), ("/api/embeddings", 500), ("/v1/embeddings", 400)] {
        rig.sim.reset();
        let (got, _, answer) = rig.answer(path, body(path, "sim:fault=killed", false)).await;
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let text = answer["error"]["message"].as_str().or(answer["error"].as_str());
        assert_eq!((got, text), (status, Some(gone)), "{path}");
        assert_eq!(rig.answer(path, body(path, "sim:fault=busy", false)).await.0, 503, "{path}");
        assert_eq!(rig.answer(path, body(path, "again", false)).await.0, 200, "{path}");
    }
}

#[tokio::test]
async fn faults_cut_and_end_answers_on_every_route() {
    let rig = Rig::new(Config::default()).await;
    for path in STREAMING.into_iter().chain(EMBEDDING) {
        for prompt in ["sim:fault=reset", "sim:fault=reset@load", "sim:fault=reset@arrival"] {
            rig.sim.reset();
            let cut = rig.ask(path, body(path, prompt, true)).await.unwrap().unwrap_err();
            assert!(!cut.is_connect() && !cut.is_status(), "{path} {prompt}: {cut:?}");
            assert_eq!(rig.outcomes(), [Outcome::Cut], "{path} {prompt}");
        }
    }
    for path in STREAMING {
        rig.sim.reset();
        assert!(rig.ask(path, body(path, "sim:fault=reset@2", true)).await.unwrap().is_err(), "{path}");
        let text = rig.ask(path, body(path, "sim:fault=end@3", true)).await.unwrap().unwrap();
        let texts = events(&text).iter().filter(|event| !told(event).is_empty()).count();
        assert!(texts == 3 && !is_whole(path, &text), "{path}: {text}");
        assert_eq!(rig.outcomes(), [Outcome::Cut, Outcome::Cut], "{path}");
    }
    let fault = Fault::new(Trouble::error(502, "boom"), Moment::Tokens(0)).for_model("tiny-embed").once();
    rig.sim.fault(fault);
    assert_eq!(rig.answer("/v1/messages", body("/v1/messages", "x", true)).await.0, 200);
    assert_eq!(rig.answer("/v1/embeddings", body("/v1/embeddings", "x", false)).await.0, 502);
}

#[tokio::test]
async fn a_client_that_hangs_up_frees_its_slot_on_every_route() {
    let rig = Rig::new(Config::default()).await;
    for path in STREAMING.into_iter().chain(EMBEDDING) {
        for (prompt, stream) in [
            ("sim:prompt-delay=1h", true),
            ("sim:fault=hang", false),
            ("sim:tokens=9 sim:token-delay=1h sim:prompt-delay=0s", true),
        ] {
            if EMBEDDING.contains(&path) && prompt.contains("token-delay") {
                continue;
            }
            rig.sim.reset();
            let hanging = rig.ask(path, body(path, prompt, stream));
            rig.sim.until(|log| log.running() == 1).await;
            let next = rig.ask(path, body(path, "next", true));
            rig.sim.until(|log| log.in_flight() == 2).await;
            assert_eq!(rig.sim.look(Log::running), 1, "there is one slot");
            hanging.abort();
            assert!(next.await.unwrap().is_ok(), "{path} {prompt}");
            rig.idle().await;
            assert_eq!(rig.outcomes(), [Outcome::HungUp, Outcome::Done], "{path} {prompt}");
        }
    }
}

#[tokio::test]
async fn a_full_queue_refuses_in_the_form_of_the_route() {
    let rig = Rig::new(Config { max_queue: 1, ..Config::default() }).await;
    let chat = "/v1/chat/completions";
    let loading = rig.ask(chat, body(chat, "sim:fault=hang@load", true));
    rig.sim.until(|log| log.events.iter().any(|event| event.what == Happening::LoadStarted)).await;
    let waiting = rig.ask("/v1/embeddings", body("/v1/embeddings", "x", false));
    rig.sim.until(|log| log.in_flight() == 2).await;
    // The simulator does not wait between the entry in the log and the one in the queue, so the queue is full.
    let (status, _, text) = rig.answer("/v1/embeddings", body("/v1/embeddings", "y", false)).await;
    let error = json!({"error": {
        "message": "server busy, please try again.  maximum pending requests exceeded", "type": "api_error",
        "param": null, "code": null,
    }});
    assert_eq!((status, serde_json::from_str(&text).unwrap()), (503, error));
    loading.abort();
    assert!(waiting.await.unwrap().is_ok());
}

#[tokio::test]
async fn the_log_tells_every_request_and_which_of_them_caused_a_load() {
    let rig = Rig::new(Config::default()).await;
    let (chat, embeddings) = ("/v1/chat/completions", "/v1/embeddings");
    let bodies = [
        (chat, body(chat, "a", true)),
        ("/v1/messages", body("/v1/messages", "b", true)),
        (embeddings, body(embeddings, "c", false)),
        ("/api/embed", json!({"model": "tiny-embed", "input": []}).to_string()),
        ("/v1/responses", body("/v1/responses", "d", false)),
        (chat, "nonsense".to_owned()),
        ("/v1/responses", json!({"model": "tiny-a"}).to_string()),
    ];
    for (path, body) in &bodies {
        rig.post(path, body.clone()).await.unwrap().bytes().await.unwrap();
    }
    rig.idle().await;
    let log = rig.sim.log();
    let records: Vec<_> =
        log.records.iter().map(|one| (one.path, String::from_utf8(one.body.to_vec()).unwrap())).collect();
    assert_eq!(records, bodies);
    let kinds: Vec<_> = log.records.iter().map(|one| (one.kind, one.caused_load)).collect();
    assert_eq!(
        kinds,
        [
            (Kind::Run, true),
            (Kind::Run, false),
            (Kind::Run, true),
            (Kind::Load, false),
            (Kind::Run, true),
            (Kind::Unread, false),
            (Kind::Load, false),
        ]
    );
    assert_eq!((log.loads, log.evictions, log.completed), (3, 2, 4));
}

#[tokio::test]
async fn a_text_has_the_same_vector_on_every_route() {
    let rig = Rig::new(Config::default()).await;
    let mut vectors = Vec::new();
    for path in EMBEDDING {
        let (_, _, text) = rig.answer(path, body(path, "the sky", false)).await;
        let answer: Value = serde_json::from_str(&text).unwrap();
        let found = [&answer["embeddings"][0], &answer["embedding"], &answer["data"][0]["embedding"]];
        let numbers = found.into_iter().find_map(Value::as_array).unwrap();
        vectors.push(numbers.iter().map(|number| number.as_f64().unwrap()).collect::<Vec<_>>());
    }
    for vector in &vectors {
        let length: f64 = vector.iter().map(|number| number * number).sum();
        assert!((length - 1.0).abs() < 1e-6 && vector.len() == 128, "{length}");
        assert!(vector.iter().zip(&vectors[0]).all(|(one, other)| (one - other).abs() < 1e-7));
    }
}

#[tokio::test]
async fn the_mark_is_on_every_final_answer_once() {
    let rig = Rig::new(Config { simulated_mark: true, ..Config::default() }).await;
    for path in STREAMING.into_iter().chain(EMBEDDING) {
        for stream in [true, false] {
            let (_, _, text) = rig.answer(path, body(path, "x", stream)).await;
            assert_eq!(text.matches(r#""simulated":true"#).count(), 1, "{path}: {text}");
        }
    }
}
