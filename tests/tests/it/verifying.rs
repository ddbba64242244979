//! Webhooks verified by somebody else's code: Standard Webhooks' own library for Python, used as the README says.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use foreman_tests::{Api, Db, Received, Receiver, Worker, eventually, made};
use ollama_sim::{Config, Sim};

use crate::chat_with_webhook;

const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

#[tokio::test(flavor = "multi_thread")]
async fn the_lines_in_the_readme_verify_every_webhook_of_a_job_and_no_forged_one() {
    let (db, receiver) = (Db::fresh().await, Receiver::start().await);
    let sim = Sim::start(Config::default()).await.unwrap();
    let secret = [("FOREMAN_WEBHOOK_SECRET", SECRET)];
    let ollama = sim.url();
    let (api, _worker) = tokio::join!(Api::start(&db, &secret), Worker::start(&db, &ollama, &secret));
    // A result that is not ASCII must survive the way through text.
    let id = api.submit(&chat_with_webhook("sim:echo grüße, 世界", &receiver.url("/"))).await;
    let webhooks = eventually("four webhooks", async || {
        let received = receiver.received();
        if received.len() == 4 { Ok(received) } else { Err(format!("{} have come", received.len())) }
    })
    .await;

    let verified = python(SECRET, &webhooks);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    let said = String::from_utf8(verified.stdout).unwrap();
    for (line, state) in said.lines().zip(["queued", "loading", "working", "done"]) {
        assert!(line.starts_with(&format!("{id} {state} ")), "{said}");
    }
    assert!(said.contains("grüße, 世界"), "{said}");

    let with_another = python("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", &webhooks);
    let complaint = String::from_utf8(with_another.stderr).unwrap();
    assert!(complaint.contains("WebhookVerificationError"), "{complaint}");
}

/// Runs the README's `receive` on each of these.
fn python(secret: &str, webhooks: &[Received]) -> Output {
    let readme = include_str!("../../../README.md");
    let (_, rest) = readme.split_once("```python\n").expect("the README has Python in it");
    let (lines, _) = rest.split_once("```").expect("the Python ends");
    let script = format!(
        "{}\nimport json, sys\nfor webhook in map(json.loads, sys.stdin):\n    receive(webhook['headers'], webhook['body'].encode())\n",
        lines.replace("whsec_…", secret)
    );
    let mut python = Command::new(made("python/bin/python", "FOREMAN_TEST_PYTHON"))
        .args(["-c", &script])
        .env("PYTHONIOENCODING", "utf-8")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = python.stdin.take().unwrap();
    for webhook in webhooks {
        // An error means that it has given up on an earlier one.
        let _given_up = writeln!(stdin, "{}", webhook.as_texts());
    }
    drop(stdin);
    python.wait_with_output().unwrap()
}
