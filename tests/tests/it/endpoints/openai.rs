//! OpenAI's own library drives an endpoint through its life, and verifies what arrives, during a rotation too.

use std::process::Stdio;

use foreman_tests::made;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::{House, job};

#[tokio::test(flavor = "multi_thread")]
async fn openais_client_manages_endpoints() {
    let house = House::start().await;
    let life = script(&house, "life", &[&house.receiver.url("/in"), &house.receiver.url("/moved")]).await;
    assert_eq!(life["created"]["event_types"], json!(["job.done", "job.failed"]));
    assert_eq!(life["created"]["name"], "mine");
    assert!(life["created"]["signing_secret"].as_str().unwrap().starts_with("whsec_"));
    assert_eq!(life["retrieved"]["id"], life["created"]["id"]);
    assert_eq!(life["retrieved"].get("signing_secret"), None);
    assert_eq!(life["listed"].as_array().unwrap().len(), 3, "over pages of two");
    assert_eq!(
        (&life["updated"]["name"], &life["updated"]["event_types"]),
        (&json!("ours"), &json!(["job.queued"]))
    );
    assert_ne!(life["rotated"]["signing_secret"], life["created"]["signing_secret"]);
    assert!(life["kept"]["previous_secret_until"].is_string());
    assert_ne!(life["rotated_at_once"]["signing_secret"], life["rotated"]["signing_secret"]);
    assert_eq!(
        life["dropped"]["previous_secret_until"],
        Value::Null,
        "the old secret ends unless it is kept"
    );
    assert_eq!((&life["tested"]["status_code"], &life["tested"]["success"]), (&json!(200), &json!(true)));
    assert_eq!(life["types"].as_array().unwrap().len(), 7);
    assert_eq!((&life["deleted"]["deleted"], &life["missing"]), (&json!(true), &json!(404)));
    assert_eq!(life["refused"], json!([400, 400, 422]));
    let example = &house.receiver.received()[0];
    assert_eq!((example.path.as_str(), example.json()["type"].as_str()), ("/moved", Some("job.queued")));
}

#[tokio::test(flavor = "multi_thread")]
async fn openais_client_unwraps_webhooks_before_during_and_after_a_rotation() {
    let house = House::start().await;
    let endpoint = house.endpoint("/in", json!({"events": ["done"]})).await;
    let old = endpoint["secret"].as_str().unwrap();
    house.run(job()).await;
    let before = house.until_received(1).await.pop().unwrap();
    let (_, rotated) = house.post(&endpoint, "rotate", Value::Null).await;
    let new = rotated["secret"].as_str().unwrap();
    let during = foreman_tests::eventually("a webhook with two signatures", async || {
        house.run(job()).await;
        let last = house.until_received(house.receiver.count()).await.pop().unwrap();
        if last.header("webhook-signature").contains(' ') { Ok(last) } else { Err("one signature") }
    })
    .await;
    // The day is over.
    house.db.run("UPDATE webhook_endpoint SET previous_until = now()").await;
    let after = foreman_tests::eventually("a webhook with the new signature alone", async || {
        house.run(job()).await;
        let last = house.until_received(house.receiver.count()).await.pop().unwrap();
        if last.header("webhook-signature").contains(' ') { Err("two signatures") } else { Ok(last) }
    })
    .await;
    let mut input = String::new();
    for (request, secret, is_good) in [
        (&before, old, true),
        (&before, new, false),
        (&during, old, true),
        (&during, new, true),
        (&after, old, false),
        (&after, new, true),
    ] {
        let mut line = request.as_texts();
        line["secret"] = secret.into();
        line["is_good"] = is_good.into();
        input.push_str(&format!("{line}\n"));
    }
    let said = script(&house, "unwrap", &[&input]).await;
    assert_eq!(said, json!([true, true, true, true, true, true]));
}

/// Runs a part of the script, and returns what it prints.
async fn script(house: &House, part: &str, arguments: &[&str]) -> Value {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/openai_webhooks.py");
    let mut python = Command::new(made("python/bin/python", "FOREMAN_TEST_PYTHON"))
        .args([script, part])
        .env("FOREMAN_URL", &house.api.url)
        .env("PYTHONIOENCODING", "utf-8")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = python.stdin.take().unwrap();
    stdin.write_all(arguments.join("\n").as_bytes()).await.unwrap();
    drop(stdin);
    let output = python.wait_with_output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}
