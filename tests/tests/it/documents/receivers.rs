//! The receivers of `docs/receivers.md`, run as they stand there. Other people's code verifies our webhooks, so a mistake that
//! our signing and our own verification have in common would show here.

use std::fs;
use std::os::unix::fs::symlink;

use foreman_tests::{Process, Received, Receiver, eventually, free_port, http, made};
use reqwest::StatusCode;
use reqwest::header::{CONTENT_LENGTH, HeaderMap};
use serde_json::{Value, json};

use super::{Desk, WEBHOOK_SECRET, document, marked};
use crate::chat_with_webhook;
use crate::house::House;

/// 32 bytes in base64.
const KEY: (&str, &str) = ("FOREMAN_SECRET_KEY", "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=");

#[derive(Debug, Clone, Copy)]
enum Language {
    Python,
    JavaScript,
}

/// A receiver of the page, running.
struct Program {
    process: Process,
    url: String,
    _desk: Desk,
}

impl Program {
    async fn start(language: Language, secret: &str) -> Self {
        let (desk, port) = (Desk::new(), free_port());
        let program = |mark, name| {
            let file = desk.0.join(name);
            let text = marked(&document("docs/receivers.md"), mark);
            assert!(text.contains("9000"));
            fs::write(&file, text.replace("9000", &port.to_string())).unwrap();
            file.display().to_string()
        };
        let settings = [("WEBHOOK_SECRET", secret)];
        let process = match language {
            Language::Python => {
                let python = made("python/bin/python", "FOREMAN_TEST_PYTHON").display().to_string();
                Process::start(&python, &[&program("python", "receiver.py")], &settings)
            }
            Language::JavaScript => {
                let modules = made("node/node_modules", "FOREMAN_TEST_NODE_MODULES");
                symlink(fs::canonicalize(modules).unwrap(), desk.0.join("node_modules")).unwrap();
                Process::start("/usr/bin/env", &["node", &program("js", "receiver.mjs")], &settings)
            }
        };
        let program = Self { process, url: format!("http://127.0.0.1:{port}/"), _desk: desk };
        eventually("a receiver that listens", async || http().get(&program.url).send().await).await;
        program
    }

    async fn answer(&self, webhook: &Received) -> StatusCode {
        let mut headers = webhook.headers.clone();
        headers.remove(CONTENT_LENGTH);
        let request = http().post(&self.url).headers(headers).body(webhook.body.clone());
        request.send().await.unwrap().status()
    }

    /// The lines that it printed of this job, without the job's id.
    fn printed(&self, job: &str) -> Vec<String> {
        let log = self.process.log();
        log.lines().filter_map(|line| line.strip_prefix(job)).map(|line| line.trim().to_owned()).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_receivers_of_the_page_take_every_webhook_of_a_job_once() {
    let house = House::start(&[WEBHOOK_SECRET], &[WEBHOOK_SECRET]).await;
    for language in [Language::Python, Language::JavaScript] {
        let program = Program::start(language, WEBHOOK_SECRET.1).await;
        // A result that is not ASCII must survive the way through text.
        let id = house.api.submit(&chat_with_webhook("sim:echo grüße, 世界", &program.url)).await;
        let delivered = async |count: usize| {
            eventually(&format!("{count} delivered"), async || {
                let page = house.api.get(&format!("/jobs/{id}/deliveries")).await;
                let data = page["data"].as_array().unwrap().clone();
                let delivered = data.iter().filter(|one| one["state"] == "delivered").count();
                if delivered == count { Ok(data) } else { Err(page) }
            })
            .await
        };
        let all = ["1 queued", "2 loading", "3 working", "4 done"];
        let deliveries = delivered(4).await;
        assert_eq!(program.printed(&id), all, "{language:?}");
        let again = format!(
            "{}/deliveries/{}/redeliver",
            house.api.url,
            deliveries[0]["delivery_id"].as_str().unwrap()
        );
        assert!(http().post(again).send().await.unwrap().status().is_success());
        delivered(5).await;
        assert_eq!(program.printed(&id), all, "{language:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn during_a_rotation_either_secret_verifies_and_nothing_forged_passes() {
    let (house, receiver) = (House::start(&[KEY], &[KEY]).await, Receiver::start().await);
    let ask = async |path: &str, body: Value| -> Value {
        let asked = http().post(format!("{}{path}", house.api.url)).body(body.to_string());
        serde_json::from_slice(&asked.send().await.unwrap().bytes().await.unwrap()).unwrap()
    };
    let endpoint = ask("/webhooks", json!({"url": receiver.url("/"), "events": ["done"]})).await;
    let rotate = format!("/webhooks/{}/rotate", endpoint["endpoint_id"].as_str().unwrap());
    let rotated = ask(&rotate, json!({})).await;
    let [old, new] = [&endpoint, &rotated].map(|made| made["secret"].as_str().unwrap());
    let webhook = eventually("a webhook with two signatures", async || {
        let id = house.api.submit(&json!({"model": "tiny-a", "prompt": "sim:tokens=1"})).await;
        let webhook = eventually("a webhook", async || {
            let received = receiver.received();
            received.into_iter().find(|webhook| webhook.json()["job_id"] == *id).ok_or("none")
        })
        .await;
        if webhook.header("webhook-signature").contains(' ') { Ok(webhook) } else { Err("one signature") }
    })
    .await;
    let id = webhook.json()["job_id"].as_str().unwrap().to_owned();
    let with = |name: &'static str, value: &str| {
        let mut forged = webhook.clone();
        forged.headers.insert(name, value.parse().unwrap());
        forged
    };
    let forged = [
        with("webhook-id", "another"),
        with("webhook-timestamp", "now"),
        with("webhook-signature", "v1"),
        with("webhook-signature", "v1,%"),
        Received { headers: HeaderMap::new(), ..webhook.clone() },
        Received { body: webhook.body.slice(1..), ..webhook.clone() },
        Received { body: b"{\"\xff\"}".as_slice().into(), ..webhook.clone() },
    ];
    for language in [Language::Python, Language::JavaScript] {
        for secret in [old, new] {
            let program = Program::start(language, secret).await;
            for forged in &forged {
                assert_eq!(program.answer(forged).await, 401, "{language:?} {forged:?}");
            }
            assert_eq!(program.printed(&id), [""; 0]);
            assert_eq!(program.answer(&webhook).await, 200, "{language:?}");
            assert_eq!(program.printed(&id), ["4 done"], "{language:?}");
        }
        let program = Program::start(language, WEBHOOK_SECRET.1).await;
        assert_eq!(program.answer(&webhook).await, 401, "{language:?}");
    }
}
