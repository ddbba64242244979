//! `foreman chat`: a conversation through the queue.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};

use foreman_tests::{Api, eventually};
use ollama_sim::{Kind, Sim};
use serde_json::Value;

use super::program;
use crate::house::House;

fn chat(api: &Api, model: &str) -> Child {
    let mut command = Command::new(program());
    command.args(["chat", model, "--system", "be short"]).env("FOREMAN_URL", &api.url);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// The bodies of all chats that have reached the Ollama.
fn bodies(sim: &Sim) -> Vec<Value> {
    let log = sim.log();
    let runs = log.records.iter().filter(|record| record.kind == Kind::Run);
    runs.map(|run| serde_json::from_slice(&run.body).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_prompt_carries_what_was_said_before() {
    let House { sim, api, .. } = &House::start(&[], &[]).await;
    let mut process = chat(api, "tiny-a");
    process.stdin.take().unwrap().write_all(b"sim:echo one\nsim:echo two\n/clear\nsim:echo three\n").unwrap();
    let output = tokio::task::spawn_blocking(move || process.wait_with_output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answers = String::from_utf8(output.stdout).unwrap();
    assert_eq!(answers.lines().count(), 3, "{answers}");
    let asked = bodies(sim);
    let said = |nth: usize| asked[nth]["messages"].as_array().unwrap().clone();
    assert_eq!([said(0).len(), said(1).len(), said(2).len()], [2, 4, 2]);
    assert_eq!(said(1)[2]["content"], answers.lines().next().unwrap());
    assert!(asked.iter().all(|body| body["messages"][0]["content"] == "be short"));
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_cancels_the_answer_and_the_conversation_goes_on() {
    let House { sim, api, .. } = &House::start(&[], &[]).await;
    let mut process = chat(api, "tiny-a");
    let mut prompts = process.stdin.take().unwrap();
    prompts.write_all(b"sim:fault=hang@1\n").unwrap();
    sim.until(|log| log.records.iter().any(|record| record.first_token.is_some())).await;
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(process.id().try_into().unwrap()),
        nix::sys::signal::Signal::SIGINT,
    )
    .unwrap();
    eventually("a job that is cancelled", async || {
        let jobs = api.get("/jobs?state=cancelled").await;
        if jobs["data"].as_array().unwrap().len() == 1 { Ok(()) } else { Err(jobs) }
    })
    .await;
    prompts.write_all(b"sim:echo hello\n").unwrap();
    let mut answers = BufReader::new(process.stdout.take().unwrap());
    let line = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        answers.read_line(&mut line).unwrap();
        line
    });
    assert!(line.await.unwrap().contains("hello"));
    drop(prompts);
    assert!(process.wait().unwrap().success(), "a cancelled answer is no failure");
    assert_eq!(bodies(sim).last().unwrap()["messages"].as_array().unwrap().len(), 2, "it is forgotten");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_one_sentence_and_the_exit_code() {
    let House { api, .. } = &House::start(&[], &[]).await;
    let mut process = chat(api, "nope");
    process.stdin.take().unwrap().write_all(b"hello\n").unwrap();
    let output = tokio::task::spawn_blocking(move || process.wait_with_output().unwrap()).await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "foreman: model 'nope' not found\n");
}
