//! The libraries that people call Ollama with, from PyPI and npm, against the real processes.
//!
//! The scripts in `tests/clients` make the calls and print what a user of the library sees. Must never know how a library is
//! called.

use std::path::Path;
use std::process::Stdio;

use foreman_tests::{eventually, http, made};
use futures_util::future::join_all;
use ollama_sim::{Config, Model};
use serde_json::{Map, Value, json};
use tokio::process::Command;

use crate::house::House;

mod waiting;

const SCRIPTS: [&str; 7] = [
    "with_ollama.py",
    "with_openai.py",
    "with_anthropic.py",
    "with_langchain.py",
    "with_ollama.cjs",
    "with_openai.cjs",
    "with_langchain.cjs",
];

/// The jobs that were cancelled in the middle of the answer that a script leaves.
const HUNG_UP: &str = "SELECT count(*) FROM job j JOIN job_done d ON d.job_id = j.id
                       WHERE d.state = 'cancelled' AND j.body LIKE '%sim:fault=hang@2%'";

impl House {
    /// Before an Ollama that has every model that the scripts want.
    async fn for_scripts(settings: &[(&str, &str)]) -> Self {
        let models = ["scripted+tools+thinking+vision+scripted", "embedding+embedding"];
        let models = models.map(|model| Model::parse(model).unwrap()).to_vec();
        Self::before(Config { models, ..Config::default() }, settings, &[]).await
    }

    /// Sends a call of its own, and does not wait for its answer. It lives as long as the returned task.
    fn occupy(&self, prompt: &str) -> tokio::task::JoinSet<()> {
        let url = format!("{}/api/generate", self.api.url);
        let body = json!({"model": "scripted", "prompt": prompt}).to_string();
        let mut call = tokio::task::JoinSet::new();
        call.spawn(async move {
            let _cut = http().post(url).body(body).send().await.unwrap().text().await;
        });
        call
    }
}

/// Runs calls of one script, all of them where none is named.
async fn run(script: &str, url: &str, key: &str, seconds: u32, calls: &[&str]) -> Map<String, Value> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients");
    let mut command = if script.ends_with(".py") {
        Command::new(made("python/bin/python", "FOREMAN_TEST_PYTHON"))
    } else {
        let mut node = Command::new("node");
        node.env("NODE_PATH", made("node/node_modules", "FOREMAN_TEST_NODE_MODULES"));
        node
    };
    command.arg(directory.join(script)).args([url, key, &seconds.to_string()]).args(calls);
    command
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("NO_PROXY", "127.0.0.1")
        .env("LANGSMITH_TRACING", "false");
    let command = command.stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.expect("node 20 or later is installed; see CONTRIBUTING.md");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{script}: {complaint}\nIf a module is missing, run `deploy/test` once: it installs the clients."
    );
    let document: Map<String, Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert!(!document.is_empty(), "{script} has made no call");
    document
}

/// Runs calls of these scripts at the same time.
async fn run_all(
    scripts: &[&'static str],
    url: &str,
    key: &str,
    seconds: u32,
    calls: &[&str],
) -> Vec<(&'static str, Map<String, Value>)> {
    join_all(scripts.iter().map(async |&script| (script, run(script, url, key, seconds, calls).await))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_sees_the_same_through_foreman_as_straight_at_ollama() {
    let house = House::for_scripts(&[]).await;
    for (at, script) in SCRIPTS.into_iter().enumerate() {
        let direct = run(script, &house.sim.url(), "none", 30, &[]).await;
        let through = run(script, &house.api.url, "none", 30, &[]).await;
        for (call, seen) in &through {
            // Ollama's streams on /v1 and /v1/messages just end where it fails. Foreman says so.
            if call.ends_with("midway") && direct[call].get("error").is_none() {
                assert!(seen.get("error").is_some(), "{script} {call}: {seen}");
            } else {
                assert_eq!(seen, &direct[call], "{script} {call}");
            }
        }
        assert_eq!(through.len(), direct.len());
        assert!(through["hang_up"].get("answer").is_some(), "{script}: {}", through["hang_up"]);
        eventually("the end of the job whose caller hung up", async || {
            let cancelled: i64 = house.db.value(HUNG_UP).await;
            if cancelled == at as i64 + 1 { Ok(()) } else { Err(cancelled) }
        })
        .await;
    }
    house.db.every_job_has_one_room().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_opens_and_a_wrong_one_is_refused_in_the_words_of_the_client() {
    let house = House::for_scripts(&[("FOREMAN_AUTH", "required")]).await;
    let key = house.db.new_client("team", false).await.key;
    for (script, seen) in run_all(&SCRIPTS, &house.api.url, &key, 30, &["chat", "chat_stream"]).await {
        assert!(seen.values().all(|seen| seen.get("answer").is_some()), "{script}: {seen:?}");
    }
    for (script, seen) in run_all(&SCRIPTS, &house.api.url, "fk_wrong", 30, &["chat", "chat_stream"]).await {
        refused(script, &seen, 401, "AuthenticationError");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_told_as_too_many_requests() {
    let house = House::for_scripts(&[("FOREMAN_CLIENT_MAX_QUEUED", "1")]).await;
    let _running = house.occupy("sim:fault=hang");
    house.sim.until(|log| log.running() == 1).await;
    let _queued = house.occupy("x");
    house.until_jobs("queued", 1).await;
    for (script, seen) in run_all(&SCRIPTS, &house.api.url, "none", 30, &["chat", "chat_stream"]).await {
        refused(script, &seen, 429, "RateLimitError");
    }
}

/// Every call ended with this status. The libraries of OpenAI and Anthropic have a class for it.
fn refused(script: &str, seen: &Map<String, Value>, status: u16, class: &str) {
    for (call, seen) in seen {
        let error = &seen["error"];
        assert_eq!(error["status"], status, "{script} {call}: {seen}");
        let ours =
            if script.contains("openai") || script.contains("anthropic") { class } else { "ResponseError" };
        assert_eq!(error["class"], ours, "{script} {call}: {seen}");
    }
}
