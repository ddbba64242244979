//! What the documents tell people to type, typed: every block of commands marked `run` is run as it stands, against real
//! processes on a simulated Ollama. Only addresses are exchanged for free ones, and the models' delays for none.

mod receivers;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::{env, fs, iter};

use foreman_tests::{Api, Cluster, Db, Worker, free_port};
use ollama_sim::{Config, Model, Sim};
use serde_json::Value;
use sqlx::PgPool;

use crate::cli::program;

const WEBHOOK_SECRET: (&str, &str) = ("FOREMAN_WEBHOOK_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");

/// A directory to type in, that goes when the test does.
struct Desk(PathBuf);

impl Desk {
    fn new() -> Self {
        let path = env::temp_dir().join(format!("foreman-desk-{}-{}", std::process::id(), free_port()));
        fs::create_dir(&path).unwrap();
        // A refusal must fail the line that met it, as a person would notice.
        fs::write(path.join(".curlrc"), "fail-with-body\nsilent\n").unwrap();
        Self(path)
    }

    /// Types these lines into one shell, which stops at the first that fails and takes with it what it started.
    async fn type_in(&self, lines: &str, settings: &BTreeMap<&str, String>) -> Output {
        let script = format!("set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null; wait' EXIT\n{lines}");
        let programs = program().parent().unwrap().to_owned();
        let ours = env::var_os("PATH").unwrap();
        let path = env::join_paths(iter::once(programs).chain(env::split_paths(&ours))).unwrap();
        // Whatever hangs, it ends.
        let mut bash = Command::new("timeout");
        bash.args(["--kill-after=10", "120", "bash", "-c", &script])
            .current_dir(&self.0)
            .env_clear()
            .envs(settings);
        bash.env("PATH", path).env("CURL_HOME", &self.0).env("HOME", &self.0);
        tokio::task::spawn_blocking(move || bash.output().unwrap()).await.unwrap()
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

/// One fenced block of a document.
struct Block {
    /// What stands behind the backticks: the language, then our marks.
    info: String,
    text: String,
}

fn document(name: &str) -> String {
    fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(name)).unwrap()
}

fn blocks(document: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = document.lines();
    while let Some(line) = lines.next() {
        if let Some(info) = line.trim_start().strip_prefix("```") {
            let within = lines.by_ref().take_while(|line| line.trim_start() != "```");
            let text = within.flat_map(|line| [line, "\n"]).collect();
            blocks.push(Block { info: info.to_owned(), text });
        }
    }
    blocks
}

/// All blocks of a document with this mark, as one script.
fn marked(document: &str, info: &str) -> String {
    let script: String =
        blocks(document).into_iter().filter(|block| block.info == info).map(|block| block.text).collect();
    assert!(!script.is_empty(), "no block is marked {info:?}");
    script
}

fn said(output: &Output) -> String {
    [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat()
}

/// The models that the documents name.
async fn sim() -> Sim {
    Sim::start(Config { models: vec![Model::new("llama3.2")], ..Config::default() }).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_the_readme_do_what_they_say() {
    let (db, desk, sim) = (Db::fresh().await, Desk::new(), sim().await);
    let ollama = sim.url();
    let secret = [WEBHOOK_SECRET];
    let (api, _worker) = tokio::join!(Api::start(&db, &secret), Worker::start(&db, &ollama, &secret));

    let receiver = format!("127.0.0.1:{}", free_port());
    let lines = marked(&document("README.md"), "sh run")
        .replace("http://127.0.0.1:8080", &api.url)
        .replace("127.0.0.1:9000", &receiver);
    let settings =
        BTreeMap::from([("FOREMAN_URL", api.url.clone()), (WEBHOOK_SECRET.0, WEBHOOK_SECRET.1.to_owned())]);
    let output = desk.type_in(&lines, &settings).await;
    assert!(output.status.success(), "{}", said(&output));

    let page = api.get("/jobs?limit=500").await;
    let jobs = page["data"].as_array().unwrap();
    let named = said(&output);
    assert!(jobs.iter().any(|job| named.contains(job["job_id"].as_str().unwrap())), "{named}");
    for id in fs::read_to_string(desk.0.join("ids.txt")).unwrap().lines() {
        let job = api.get(&format!("/jobs/{id}?wait=30")).await;
        assert_eq!(job["state"], "done", "{job}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_parts_start_and_are_backed_up_as_the_documents_say() {
    // As it would be in earnest: the doctor minds a Postgres that does not sync.
    let cluster = Cluster::durable().await;
    let (db, desk, sim) = (Db::on(&cluster).await, Desk::new(), sim().await);
    let lines =
        ["README.md", "docs/operations.md"].map(|name| marked(&document(name), "sh run parts")).concat();
    let lines = lines
        .replace("postgres://foreman:secret@db:5432/foreman", db.url())
        // Nobody types faster than the services start.
        .replace("foreman doctor", "until foreman doctor > doctor.txt; do :; done; cat doctor.txt");
    let loopback = || format!("127.0.0.1:{}", free_port());
    let (api, ops) = (loopback(), loopback());
    let settings = BTreeMap::from([
        ("OLLAMA_HOST", sim.url()),
        ("FOREMAN_URL", format!("http://{api}")),
        ("FOREMAN_API_ADDR", api),
        ("FOREMAN_API_OPS_ADDR", ops),
        ("FOREMAN_WORKER_OPS_ADDR", loopback()),
        ("FOREMAN_WORKER_STREAM_ADDR", loopback()),
    ]);
    let output = desk.type_in(&lines, &settings).await;
    assert!(output.status.success(), "{}", said(&output));
    let restored = PgPool::connect(&db.url().replace(db.name(), "restored")).await.unwrap();
    let clients =
        sqlx::query_scalar::<_, String>("SELECT name FROM client").fetch_all(&restored).await.unwrap();
    assert_eq!(clients, ["reports"]);
}

/// What needs a Docker engine is run by deploy/smoke, and the two commands by whoever tries Foreman or changes it.
#[test]
fn every_command_in_the_readme_is_run_by_somebody() {
    let smoke = document("deploy/smoke");
    for Block { info, text } in blocks(&document("README.md")) {
        match info.as_str() {
            "sh run" | "sh run parts" => {}
            "sh smoke" => {
                for line in text.lines() {
                    let command = line.split('#').next().unwrap().trim();
                    assert!(smoke.contains(command.trim_start_matches("docker ")), "{command}");
                }
            }
            _ if text.starts_with("deploy/quickstart") => {}
            _ => {
                assert!(!info.starts_with("sh"), "nobody runs this; mark it run, run parts or smoke:\n{text}")
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_body_in_the_documents_has_the_fields_of_a_webhook_in_their_order() {
    let shown = blocks(&document("docs/webhooks.md")).into_iter().find(|block| block.info == "json").unwrap();
    let shown: Value = serde_json::from_str(&shown.text).unwrap();
    let (db, sim) = (Db::fresh().await, sim().await);
    let ollama = sim.url();
    let (api, _worker) = tokio::join!(Api::start(&db, &[]), Worker::start(&db, &ollama, &[]));
    let job = serde_json::json!({"model": "llama3.2", "prompt": "hello", "metadata": {"order": 17}});
    let id = api.submit(&job).await;
    api.get(&format!("/jobs/{id}?wait=30")).await;
    let history = api.get(&format!("/jobs/{id}/events")).await;
    let last = history["data"].as_array().unwrap().last().unwrap().clone();
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&shown), keys(&last));
    assert_eq!(keys(&shown["artifacts"][0]), keys(&last["artifacts"][0]));
}
