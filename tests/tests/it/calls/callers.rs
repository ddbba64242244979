//! Many callers at once, and what became of each: an answer, an error in the form of its surface, or a broken connection. An
//! answer that ends in any other way would be taken for a whole one, and is never right.

use std::collections::BTreeMap;

use foreman_tests::http;
use futures_util::StreamExt as _;
use ollama_sim::{Kind, Log, Outcome, Record};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// The routes whose callers get a stream.
pub(super) const STREAMED: [&str; 6] = [
    "/api/chat",
    "/api/generate",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
];

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Became {
    Answer,
    /// With the sentence that the caller reads.
    Error(String),
    Broken,
}

/// A call that is over.
#[derive(Debug)]
pub(super) struct Over {
    pub(super) number: usize,
    pub(super) became: Became,
    /// When the first word of the model came, if one did.
    pub(super) first_word: Option<Instant>,
}

/// Calls on all routes in turn. Number `n` goes to the api `n % apis`.
pub(super) fn callers(apis: &[&str], count: usize, orders: &str) -> JoinSet<Over> {
    let mut callers = JoinSet::new();
    for number in 0..count {
        let api = apis[number % apis.len()].to_owned();
        let prompt = format!("{} {orders}", mark(number));
        callers.spawn(async move { caller(api, number, &prompt).await });
    }
    callers
}

/// Names a call in its prompt.
fn mark(number: usize) -> String {
    format!("call-{number:04}.")
}

async fn caller(api: String, number: usize, prompt: &str) -> Over {
    let path = STREAMED[number % STREAMED.len()];
    let request = http().post(format!("{api}{path}")).body(body(path, prompt).to_string());
    let mut over = Over { number, became: Became::Broken, first_word: None };
    let Ok(answer) = request.send().await else { return over };
    let status = answer.status();
    let mut text = String::new();
    let mut pieces = answer.bytes_stream();
    while let Some(piece) = pieces.next().await {
        let Ok(piece) = piece else { return over };
        text.push_str(std::str::from_utf8(&piece).unwrap());
        if status.is_success() && over.first_word.is_none() && !text.contains("error") {
            over.first_word = Some(Instant::now());
        }
    }
    over.became = if status.is_success() { end_of_stream(path, &text) } else { Became::Error(text) };
    over
}

fn body(path: &str, prompt: &str) -> Value {
    let messages = json!([{"role": "user", "content": prompt}]);
    match path {
        "/api/generate" | "/v1/completions" => json!({"model": "tiny-a", "prompt": prompt, "stream": true}),
        "/v1/responses" => json!({"model": "tiny-a", "input": prompt, "stream": true}),
        _ => json!({"model": "tiny-a", "max_tokens": 10_000, "messages": messages, "stream": true}),
    }
}

/// How a stream ended by what its surface calls an end.
fn end_of_stream(path: &str, text: &str) -> Became {
    let last = text.lines().rev().find(|line| !line.is_empty()).unwrap_or_default();
    let last: Value = serde_json::from_str(last.strip_prefix("data: ").unwrap_or(last)).unwrap_or_default();
    let is_answer = match path {
        "/v1/chat/completions" | "/v1/completions" => text.ends_with("data: [DONE]\n\n"),
        "/v1/responses" => last["type"] == "response.completed",
        "/v1/messages" => last["type"] == "message_stop",
        _ => last["done"] == true,
    };
    let error = [&last["error"]["message"], &last["error"], &last["message"]];
    match error.iter().find_map(|error| error.as_str()) {
        _ if is_answer => Became::Answer,
        Some(error) => Became::Error(error.to_owned()),
        None => panic!("{path}: the stream ended without an end: {text}"),
    }
}

/// What became of these calls, by kind.
pub(super) fn count(calls: &[Over]) -> (usize, usize, usize) {
    let of = |is: fn(&Became) -> bool| calls.iter().filter(|call| is(&call.became)).count();
    (
        of(|became| *became == Became::Answer),
        of(|became| matches!(became, Became::Error(_))),
        of(|became| *became == Became::Broken),
    )
}

/// Proves that no call ran to an end again after its caller had got a word. When a worker is frozen, another one may begin the
/// call before the caller's api notices, and is then told to hang up. `epoch` is a moment before the Ollama started.
pub(super) fn none_ran_again(calls: &[Over], log: &Log, epoch: Instant) {
    let mut runs: BTreeMap<String, Vec<&Record>> = BTreeMap::new();
    for record in log.records.iter().filter(|record| record.kind == Kind::Run) {
        let body = String::from_utf8_lossy(&record.body);
        if let Some((_, rest)) = body.split_once("call-") {
            runs.entry(rest[..4].to_owned()).or_default().push(record);
        }
    }
    for call in calls {
        let runs = runs.get(&format!("{:04}", call.number)).map(Vec::as_slice).unwrap_or_default();
        if let Some(word) = call.first_word {
            let again = runs.iter().filter(|run| run.arrived > word - epoch);
            let hung_up = |run: &&&Record| run.outcome == Some(Outcome::HungUp);
            assert!(again.clone().all(|run| hung_up(&run)), "{call:?} ran again: {runs:?}");
        }
    }
}
