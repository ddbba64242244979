//! `foreman jobs`, `deliveries`, `cancel` and `retry`.

use std::process::{Command, Stdio};

use foreman_tests::{Api, Db, Receiver, ReceiverAnswer, Worker, eventually};
use ollama_sim::{Config, Sim};
use serde_json::{Value, json};

use crate::api::{delivering::ended, publish};

use super::{foreman, program, sentence, stderr, stdout};

/// An id of no job.
const NOBODY: &str = "01JD8Z6Q2M5V0R3N7K4T9W1XYA";

async fn start() -> (Db, Api) {
    let db = Db::fresh().await;
    publish(&db).await;
    let api = Api::start(&db, &[]).await;
    (db, api)
}

async fn run(api: &Api, arguments: &[&str]) -> std::process::Output {
    foreman(arguments, &[("FOREMAN_URL", &api.url)]).await
}

fn lines(output: &std::process::Output) -> Vec<Value> {
    stdout(output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_a_table_for_people_and_lines_for_programs() {
    let (_db, api) = start().await;
    let id = api.submit(&json!({ "model": "tiny-a", "prompt": "x" })).await;
    let later = (chrono::Utc::now() + chrono::TimeDelta::hours(5)).to_rfc3339();
    api.submit(&json!({ "model": "tiny-a", "prompt": "x", "run_at": later })).await;
    let gone = api.submit(&json!({ "model": "tiny-a", "prompt": "x" })).await;
    run(&api, &["cancel", &gone]).await;

    let table = stdout(&run(&api, &["jobs"]).await);
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["JOB", "STATE", "MODEL", "AGE", "WAITED", "TOOK", "REMARK"], "{table}");
    assert_eq!(rows[1][..3], [&gone, "cancelled", "tiny-a"], "{table}");
    assert!(table.contains("runs in 5h"), "{table}");
    assert_eq!(rows[3][..3], [&id, "queued", "tiny-a"], "{table}");
    assert_eq!(rows.len(), 4);

    let queued =
        lines(&run(&api, &["jobs", "--state", "queued", "--model", "TINY-A:latest", "--json"]).await);
    assert_eq!(queued.len(), 2);
    assert_eq!(queued[1]["job_id"], id);
    assert!(queued[1]["timing"].is_object(), "all that the api says");
    assert_eq!(stdout(&run(&api, &["jobs", "--model", "other", "--json"]).await), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_goes_on_over_pages_as_far_as_it_is_wanted() {
    let (db, api) = start().await;
    let job = json!({ "model": "tiny-a", "prompt": "x" }).to_string();
    let batch = format!("{job}\n").repeat(1_200);
    let sent =
        foreman_tests::http().post(format!("{}/jobs/batch", api.url)).body(batch).send().await.unwrap();
    assert!(sent.status().is_success());
    sent.text().await.unwrap();
    assert_eq!(db.value::<i64>("SELECT count(*) FROM job").await, 1_200);
    for (limit, count) in [("1", 1), ("1100", 1_100), ("5000", 1_200)] {
        let listed = lines(&run(&api, &["jobs", "--json", "--limit", limit]).await);
        let ids: std::collections::BTreeSet<_> =
            listed.iter().map(|job| job["job_id"].as_str().unwrap()).collect();
        assert_eq!((listed.len(), ids.len()), (count, count));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_away_ends_the_list_quietly() {
    let (_db, api) = start().await;
    api.submit(&json!({ "model": "tiny-a", "prompt": "x" })).await;
    let mut command = Command::new(program());
    command.args(["jobs", "--json"]).env("FOREMAN_URL", &api.url);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
    assert_eq!((output.status.code(), stderr(&output)), (Some(141), String::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn results_that_cannot_be_written_are_no_success() {
    let (_db, api) = start().await;
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = Command::new(program());
    command.args(["jobs"]).env("FOREMAN_URL", &api.url).stdout(full);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(sentence(&output).contains("standard output cannot be written"), "{}", sentence(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_are_all_shown_however_many_pages_they_are() {
    let (db, api) = start().await;
    let job = json!({ "model": "tiny-a", "prompt": "x", "state_webhook_url": "http://127.0.0.1:9/" });
    let id = api.submit(&job).await;
    ended(&db, id.parse().unwrap(), 1_100, "2 minutes").await;
    assert_eq!(lines(&run(&api, &["deliveries", "--json", &id]).await).len(), 1_100);
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_show_what_the_receiver_said() {
    let db = Db::fresh().await;
    let sim = Sim::start(Config::default()).await.unwrap();
    let ollama = sim.url();
    let retry_soon = [("FOREMAN_WEBHOOK_RETRY_SCHEDULE", "1h")];
    let (api, _worker) = tokio::join!(Api::start(&db, &[]), Worker::start(&db, &ollama, &retry_soon));
    let receiver = Receiver::answering(|_, _| ReceiverAnswer::Status(500)).await;
    let id = api
        .submit(&json!({ "model": "tiny-a", "prompt": "x", "state_webhook_url": receiver.url("/hook") }))
        .await;
    let table = eventually("an attempt", async || {
        let table = stdout(&run(&api, &["deliveries", &id]).await);
        if table.contains("500") { Ok(table) } else { Err(table) }
    })
    .await;
    let rows: Vec<&str> = table.lines().collect();
    assert!(rows[0].starts_with("SEQ  EVENT"), "{table}");
    let first: Vec<&str> = rows[1].split_whitespace().collect();
    assert_eq!(first[..4], ["1", "queued", "pending", "1"], "{table}");
    assert!(rows[1].ends_with(&receiver.url("/hook")), "{table}");

    let delivery = &lines(&run(&api, &["deliveries", "--json", &id]).await)[0];
    assert_eq!(delivery["attempts"][0]["status"], 500);
    let none = api.submit(&json!({ "model": "tiny-a", "prompt": "x" })).await;
    assert_eq!(stdout(&run(&api, &["deliveries", &none]).await), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_and_retry_do_what_they_can_and_name_the_rest() {
    let (_db, api) = start().await;
    let job = json!({ "model": "tiny-a", "prompt": "x" });
    let (one, other) = (api.submit(&job).await, api.submit(&job).await);
    let cancelled = run(&api, &["cancel", &one, NOBODY, &other]).await;
    assert_eq!(cancelled.status.code(), Some(6));
    assert_eq!(stdout(&cancelled), format!("{one}  cancelled\n{other}  cancelled\n"));
    assert!(
        sentence(&cancelled).starts_with(&format!("{NOBODY}: there is no such job")),
        "{}",
        sentence(&cancelled)
    );

    assert_eq!(run(&api, &["watch", &one]).await.status.code(), Some(4));

    let retried = run(&api, &["retry", &one]).await;
    let again = stdout(&retried).trim().to_owned();
    assert_eq!(api.get(&format!("/jobs/{again}")).await["retry_of"], Value::from(one));
    let alive = run(&api, &["retry", &again]).await;
    assert_eq!(alive.status.code(), Some(1));
    assert!(
        sentence(&alive).starts_with(&format!("{again}: the job has not ended yet")),
        "{}",
        sentence(&alive)
    );

    let json = run(&api, &["cancel", "--json", &again]).await;
    assert_eq!(lines(&json)[0]["state"], "cancelled");
    assert_eq!(lines(&run(&api, &["retry", "--json", &again]).await)[0]["state"], "queued");
}
