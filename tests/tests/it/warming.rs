//! Models that an operator has loaded by hand, over HTTP and from the command line.

use foreman_tests::{Api, eventually, http};
use serde_json::{Value, json};

use crate::chat;
use crate::cli::program;
use crate::house::House;

async fn warm(api: &Api, model: &str, body: Value) -> (u16, Value) {
    let request = http().post(format!("{}/models/{model}/warm", api.url)).body(body.to_string());
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), serde_json::from_str(&answer.text().await.unwrap()).unwrap())
}

async fn ends(api: &Api, id: &str) -> Value {
    eventually("the end of the load", async || {
        let job = api.get(&format!("/jobs/{id}?wait=10")).await;
        if job["state"] == "done" { Ok(job) } else { Err(job) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_loaded_by_hand_and_not_twice_and_its_next_job_needs_no_load() {
    let house = House::start(&[], &[]).await;
    let (status, accepted) = warm(&house.api, "Tiny-A", json!({})).await;
    assert_eq!(status, 202, "{accepted}");
    ends(&house.api, accepted["job_id"].as_str().unwrap()).await;
    assert_eq!(house.sim.resident(), ["tiny-a:latest"]);
    let (_, again) = warm(&house.api, "tiny-a:latest", json!(7)).await;
    assert_eq!(again["code"], "invalid_json", "{again}");
    let (_, again) = warm(&house.api, "tiny-a:latest", json!({ "run_at": null })).await;
    ends(&house.api, again["job_id"].as_str().unwrap()).await;
    house.api.submit(&chat("a job after that")).await;
    house.db.every_job_ends().await;
    assert_eq!(house.sim.log().loads, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_may_wait_for_its_time_and_an_unknown_model_is_refused() {
    let house = House::start(&[], &[]).await;
    let later = (house.db.now().await + chrono::TimeDelta::hours(1)).to_rfc3339();
    let (status, accepted) = warm(&house.api, "tiny-b", json!({ "run_at": later })).await;
    assert_eq!(status, 202, "{accepted}");
    let id: foreman_store::JobId = accepted["job_id"].as_str().unwrap().parse().unwrap();
    assert_eq!(house.db.room(id).await, "scheduled");
    house.db.run("UPDATE job_scheduled SET due_at = now()").await;
    ends(&house.api, &id.to_string()).await;
    assert_eq!(house.sim.resident(), ["tiny-b:latest"]);

    for (model, body, status, code) in [
        ("nosuch", json!({}), 404, "unknown_model"),
        ("no%2Fsuch%2F%2Fname", json!({}), 404, "unknown_model"),
        ("tiny-a%00", json!({}), 404, "unknown_model"),
        ("tiny-a", json!({ "at": "2999-01-01T00:00:00Z" }), 400, "unknown_field"),
        ("tiny-a", json!({ "run_at": "noon" }), 400, "invalid_run_at"),
        ("tiny-a", json!({ "run_at": "2999-01-01T00:00:00Z" }), 400, "invalid_run_at"),
    ] {
        let (is, refused) = warm(&house.api, model, body).await;
        assert_eq!((is, &refused["code"]), (status, &json!(code)), "{refused}");
    }
    let (_, refused) = warm(&house.api, "tiny%20a", json!({})).await;
    assert!(refused["error"].as_str().unwrap().contains("no model name may have"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_prints_the_job_that_loads_the_model() {
    let house = House::start(&[], &[]).await;
    let mut command = std::process::Command::new(program());
    command.args(["model", "warm", "tiny-b"]).env_clear().env("FOREMAN_URL", &house.api.url);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let id = String::from_utf8(output.stdout).unwrap();
    ends(&house.api, id.trim()).await;
    assert_eq!(house.sim.resident(), ["tiny-b:latest"]);
}
