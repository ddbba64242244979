//! Every recorded request of real clients, once at an Ollama and once through Foreman: the answers are the same.
//!
//! Each side has an Ollama of its own, because a request changes which models are resident.

use std::collections::BTreeMap;

use foreman_tests::http;
use ollama_sim::{Config, Model};
use reqwest::Method;
use serde::Deserialize;
use serde_json::Value;

use super::{Answered, House, answered, comparable};

const RECORDED: &str = include_str!("../../../ollama-sim/tests/data/v0.32.15.ndjson");

/// The requests that Foreman rightly answers in another way, and why.
const DIFFER: [(&str, &str); 4] = [
    ("chat-model-cloud", "to Foreman a cloud model is a model that no host has"),
    ("host-foreign", "Foreman checks no host of a route that needs no key"),
    ("origin-foreign", "Foreman checks no origin of a route that needs no key"),
    ("preflight", "pages of browsers get no permission to call Foreman"),
];

/// A listing may be a second old, and models stay resident although a client says `keep_alive`.
const MAY_DIFFER: [&str; 4] = ["ps-empty", "ps-one", "ps-forever", "ps-end"];

#[derive(Deserialize)]
struct Case {
    case: String,
    request: Request,
    answer: Recorded,
}

#[derive(Deserialize)]
struct Request {
    method: String,
    path: String,
    headers: BTreeMap<String, String>,
    body: Option<String>,
    /// A body that is not UTF-8, with one character per byte.
    body_latin1: Option<String>,
}

#[derive(Deserialize)]
struct Recorded {
    body: String,
}

impl Request {
    async fn send(&self, url: &str) -> Answered {
        let method: Method = self.method.parse().unwrap();
        let mut request = http().request(method, format!("{url}{}", self.path));
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let latin1 = |body: &String| body.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
        let bytes: Option<Vec<u8>> = self.body_latin1.as_ref().map(latin1);
        if let Some(body) = bytes.or_else(|| self.body.clone().map(String::into_bytes)) {
            request = request.body(body);
        }
        answered(request.send().await.unwrap()).await
    }
}

/// The models of the recorded server, as far as answers depend on them.
fn models(cases: &[Case]) -> Vec<Model> {
    let tags = cases.iter().find(|case| case.case == "tags").unwrap();
    let tags: Value = serde_json::from_str(&tags.answer.body).unwrap();
    let listed = tags["models"].as_array().unwrap().iter();
    listed
        .map(|entry| {
            let name = entry["name"].as_str().unwrap();
            let capabilities = entry["capabilities"].as_array().unwrap().iter();
            let mut model = Model::new(name);
            model.capabilities = capabilities.map(|one| one.as_str().unwrap().to_owned()).collect();
            model.embeds_only = name == "tiny-embed:latest";
            model.scripted = name == "scripted:latest";
            model.parameters = [("num_ctx".to_owned(), 2048), ("num_predict".to_owned(), 32)].into();
            model
        })
        .collect()
}

/// What both sides must say. Within errors Ollama itself does not agree whether a charset is named and a line ends.
fn said(mut answer: Answered) -> String {
    if answer.status != 200 {
        answer.content_type = answer.content_type.split(';').next().unwrap_or_default().to_owned();
        answer.body = answer.body.trim_end().to_owned();
    }
    comparable(&answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_recorded_request_is_answered_as_by_an_ollama() {
    let cases: Vec<Case> = RECORDED.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let config = Config { models: models(&cases), tokens: 40, ..Config::default() };
    let ollama = ollama_sim::Sim::start(config.clone()).await.unwrap();
    let house = House::before(config, &[], &[]).await;
    let mut differ = BTreeMap::new();
    for case in &cases {
        let direct = case.request.send(&ollama.url()).await;
        let through = case.request.send(&house.api.url).await;
        let (direct, through) = (said(direct), said(through));
        if direct != through {
            differ.insert(case.case.as_str(), format!("ollama: {direct}\nforeman: {through}\n"));
        }
    }
    for case in MAY_DIFFER {
        differ.remove(case);
    }
    for (case, reason) in DIFFER {
        assert!(differ.remove(case).is_some(), "{case} is no exception any more: {reason}");
    }
    let shown: Vec<String> = differ.iter().map(|(case, bodies)| format!("== {case}\n{bodies}")).collect();
    assert!(shown.is_empty(), "{} cases differ\n{}", shown.len(), shown.join("\n"));
    house.db.every_job_has_one_room().await;
}
