//! What a person at a terminal sees, and what a shell is told. `script` lends the terminal.

use std::fs;
use std::process::{Command, Stdio};

use foreman_tests::{Api, Db, Worker};
use ollama_sim::{Config, Sim};
use serde_json::json;

use super::{foreman, program, stdout};

/// All that `foreman` shows when both of its outputs are a terminal.
async fn on_a_terminal(api: &Api, arguments: &str) -> String {
    let mut command = Command::new("script");
    command.args([
        "--quiet",
        "--return",
        "--command",
        &format!("{} {arguments}", program().display()),
        "/dev/null",
    ]);
    command.env("FOREMAN_URL", &api.url).env("TERM", "xterm").stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{}", stdout(&output));
    stdout(&output)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_shows_how_far_it_is_and_a_job_how_long_it_takes() {
    let db = Db::fresh().await;
    let sim = Sim::start(Config::default()).await.unwrap();
    let ollama = sim.url();
    let (api, _worker) = tokio::join!(Api::start(&db, &[]), Worker::start(&db, &ollama, &[]));
    let file =
        std::env::temp_dir().join(format!("foreman-tests-{}-{}.ndjson", std::process::id(), db.name()));
    let job = json!({ "model": "tiny-a", "prompt": "hello" });
    fs::write(&file, format!("{job}\n").repeat(1_500)).unwrap();
    let shown = on_a_terminal(&api, &format!("submit --file {}", file.display())).await;
    fs::remove_file(&file).unwrap();
    assert!(shown.contains(" %  ") && shown.contains("1,500 jobs."), "{shown}");

    let shown = on_a_terminal(&api, "submit --model tiny-a --priority 9 --wait hello").await;
    for state in ["queued ", "loading ", "working ", "done "] {
        assert!(shown.contains(state), "{state}: {shown}");
    }
    let has_duration = |line: &str| {
        line.strip_suffix('s').is_some_and(|took| took.ends_with(|last: char| last.is_ascii_digit()))
    };
    assert!(shown.lines().any(has_duration), "how long each took: {shown}");
}

#[tokio::test]
async fn completions_are_scripts_that_their_shells_can_read() {
    for shell in ["bash", "zsh", "fish"] {
        let script = stdout(&foreman(&["completions", shell], &[]).await);
        assert!(script.contains("deliveries") && script.contains("idempotency-key"), "{shell}");
    }
    let script = stdout(&foreman(&["completions", "bash"], &[]).await);
    let bash = Command::new("bash")
        .args(["-c", &format!("{script}\nCOMP_WORDS=(foreman jobs --state que); COMP_CWORD=3; _foreman foreman que --state; echo \"${{COMPREPLY[@]}}\"")])
        .output()
        .unwrap();
    assert_eq!(stdout(&bash).trim(), "queued", "{}", String::from_utf8_lossy(&bash.stderr));
}
