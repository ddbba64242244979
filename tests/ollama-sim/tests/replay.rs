//! The simulator answers every recorded request as the recorded server did.
//!
//! The test compares the status, the headers that describe the answer, the order and types of keys, the lines of
//! streams, and every value that depends neither on the clock, nor on chance, nor on a model's words.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::collections::BTreeMap;

use ollama_sim::{Config, Model, Sim};
use reqwest::{Client, Method};
use serde_json::Value;

#[derive(serde::Deserialize)]
struct Case {
    case: String,
    request: Request,
    answer: RecordedAnswer,
}

#[derive(serde::Deserialize)]
struct Request {
    method: String,
    path: String,
    headers: BTreeMap<String, String>,
    body: Option<String>,
    /// A body that is not UTF-8, with one character per byte.
    body_latin1: Option<String>,
}

#[derive(Debug, serde::Deserialize)]
struct RecordedAnswer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

/// In these cases the number of tokens depends on the model's words, and so do the number of lines and the reason why
/// they end. The first and the last line are compared nevertheless. No case is left out.
const WORDS_DECIDE_THE_LENGTH: [&str; 4] =
    ["chat-stop", "chat-format-json", "chat-format-schema", "v1-chat-json"];
const LENGTHS: [&str; 5] =
    ["done_reason", "eval_count", "finish_reason", "completion_tokens", "total_tokens"];
/// Here the recorded model fell into a loop, which Ollama ended after 31 equal tokens, without a last line. The
/// simulator repeats itself only when it is told to. A test of its own checks what happens then.
const FELL_INTO_A_LOOP: &str = "chat-predict-0";

/// Keys whose values depend on the clock or on chance.
const CLOCK_OR_CHANCE: [&str; 12] = [
    "created_at",
    "completed_at",
    "created",
    "expires_at",
    "total_duration",
    "load_duration",
    "prompt_eval_duration",
    "eval_duration",
    "id",
    "item_id",
    "call_id",
    "request_id",
];
/// `created` of these cases is the time of a model on disk.
const TIMES_OF_MODELS: [&str; 2] = ["v1-models", "v1-model"];
/// Keys whose values depend on how the recorded models split and choose words.
const WORDS: [&str; 9] =
    ["content", "text", "delta", "response", "token", "logprob", "bytes", "context", "prompt_eval_count"];
/// The number of tokens of a rendered prompt depends on the template and on the model's own vocabulary, even where
/// the answer's words do not. The routes of `/v1` are recorded with a template that only matters if there are tools.
const PROMPT: [&str; 2] = ["prompt_eval_count", "context"];
const PROMPT_WITH_TOOLS: [&str; 3] = ["prompt_tokens", "input_tokens", "total_tokens"];
/// Vectors of the recorded model. Their lengths are compared.
const VECTORS: [&str; 2] = ["embedding", "embeddings"];

fn cases() -> Vec<Case> {
    include_str!("data/v0.32.15.ndjson").lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The models of the recorded server, from its own listing.
fn models(cases: &[Case]) -> Vec<Model> {
    let tags = cases.iter().find(|case| case.case == "tags").unwrap();
    let tags: Value = serde_json::from_str(&tags.answer.body).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let listed = tags["models"].as_array().unwrap();
    listed
        .iter()
        .map(|entry| {
            let (name, details) = (text(&entry["name"]), &entry["details"]);
            let mut model = Model::new(&name);
            model.digest = text(&entry["digest"]);
            model.modified_at = text(&entry["modified_at"]);
            model.size = entry["size"].as_u64().unwrap();
            model.weights = text(&details["parent_model"]).rsplit_once('-').unwrap().1.to_owned();
            model.parameter_size = text(&details["parameter_size"]);
            model.quantization = text(&details["quantization_level"]);
            model.context_length = details["context_length"].as_i64().unwrap();
            model.embedding_length = details["embedding_length"].as_u64().unwrap();
            model.capabilities = entry["capabilities"].as_array().unwrap().iter().map(text).collect();
            // The listing does not contain these values, but the answers show them.
            model.embeds_only = name == "tiny-embed:latest";
            model.scripted = name == "scripted:latest";
            model.parameters = [("num_ctx".to_owned(), 2048), ("num_predict".to_owned(), 32)].into();
            model
        })
        .collect()
}

async fn ask(client: &Client, url: &str, request: &Request) -> RecordedAnswer {
    let method: Method = request.method.parse().unwrap();
    let mut builder = client.request(method, format!("{url}{}", request.path));
    for (name, value) in &request.headers {
        builder = builder.header(name, value);
    }
    if let Some(body) = &request.body {
        builder = builder.body(body.clone());
    }
    if let Some(body) = &request.body_latin1 {
        builder = builder.body(body.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect::<Vec<_>>());
    }
    let answer = builder.send().await.unwrap();
    let status = answer.status().as_u16();
    let headers = answer
        .headers()
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect();
    RecordedAnswer { status, headers, body: answer.text().await.unwrap() }
}

/// The headers that describe the answer, by lower-case name.
fn telling(headers: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    headers
        .iter()
        .map(|(name, value)| (name.to_lowercase(), value.clone()))
        .filter(|(name, _)| {
            ["content-type", "allow", "vary", "cache-control", "connection"].contains(&name.as_str())
                || name.starts_with("access-")
        })
        .collect()
}

impl Case {
    fn is(&self, cases: &[&str]) -> bool {
        cases.contains(&self.case.as_str())
    }

    /// Whether the value of a key differs between two runs. `estimate` stands for an event whose count of the
    /// prompt is Ollama's estimate, which depends on the request alone.
    fn blanks(&self, key: &str, estimate: bool) -> bool {
        // The scripted model says the same words every time, so its words are compared.
        let scripted = self.case.contains("scripted");
        let tools = self.request.body.as_ref().is_some_and(|body| body.contains("\"tools\""));
        let clock = CLOCK_OR_CHANCE.contains(&key)
            && !(self.is(&TIMES_OF_MODELS) && ["id", "created"].contains(&key));
        clock
            || (WORDS.contains(&key) && !scripted)
            || (PROMPT.contains(&key) && scripted)
            || (PROMPT_WITH_TOOLS.contains(&key) && tools && !estimate)
            || (LENGTHS.contains(&key) && self.is(&WORDS_DECIDE_THE_LENGTH))
    }

    /// A value with everything blanked that differs between two runs. Its text keeps the order of keys.
    fn comparable(&self, value: &Value, key: &str, estimate: bool) -> Value {
        let holds_objects = match value {
            Value::Array(items) => items.iter().any(Value::is_object),
            other => other.is_object(),
        };
        match value {
            _ if self.blanks(key, estimate) && !holds_objects => kind(value),
            Value::Object(members) => members
                .iter()
                .map(|(key, value)| (key.clone(), self.comparable(value, key, estimate)))
                .collect(),
            Value::Array(items) if VECTORS.contains(&key) && items.iter().any(Value::is_number) => {
                format!("<{} numbers>", items.len()).into()
            }
            Value::String(base64) if VECTORS.contains(&key) => format!("<{} letters>", base64.len()).into(),
            Value::Array(items) => items.iter().map(|item| self.comparable(item, key, estimate)).collect(),
            other => other.clone(),
        }
    }

    /// The lines of a body, each as comparable text; a plain text stays as it is.
    fn lines(&self, body: &str) -> Vec<String> {
        let mut lines: Vec<String> = body
            .split_inclusive('\n')
            .map(|line| {
                // An event names its data, a line of Ollama's own is the bare value.
                let (before, text) = line.strip_prefix("data: ").map_or(("", line), |text| ("data: ", text));
                match serde_json::from_str::<Value>(text) {
                    Ok(value) => {
                        let estimate = value["type"] == "message_start";
                        let value = self.comparable(&value, "", estimate);
                        format!("{before}{value}{}", if line.ends_with('\n') { "\\n" } else { "" })
                    }
                    Err(_) => line.to_owned(),
                }
            })
            .collect();
        if self.case == FELL_INTO_A_LOOP {
            lines.truncate(1);
        }
        if self.is(&WORDS_DECIDE_THE_LENGTH) {
            lines = [lines.first(), lines.last()].into_iter().flatten().cloned().collect();
        }
        lines
    }
}

fn kind(value: &Value) -> Value {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(items) if items.is_empty() => "empty array",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    format!("<{kind}>").into()
}

#[tokio::test]
async fn every_recorded_request_is_answered_as_the_recorded_server_did() {
    _ = rustls::crypto::ring::default_provider().install_default();
    let cases = cases();
    assert_eq!(cases.len(), 192);
    let sim = Sim::start(Config {
        version: "0.0.0".to_owned(),
        models: models(&cases),
        tokens: 40,
        ..Config::default()
    })
    .await
    .unwrap();
    let client = Client::builder().no_proxy().build().unwrap();
    let mut wrong = Vec::new();
    for case in &cases {
        let answer = ask(&client, &sim.url(), &case.request).await;
        let mut compare = |what: &str, got: String, recorded: String| {
            if got != recorded {
                wrong.push(format!("{} {what}\n     got {got}\nrecorded {recorded}\n", case.case));
            }
        };
        compare("status", answer.status.to_string(), case.answer.status.to_string());
        compare(
            "headers",
            format!("{:?}", telling(&answer.headers)),
            format!("{:?}", telling(&case.answer.headers)),
        );
        compare("body", case.lines(&answer.body).join("\n"), case.lines(&case.answer.body).join("\n"));
    }
    assert!(wrong.is_empty(), "{} differences\n{}", wrong.len(), wrong.join("\n"));
}
