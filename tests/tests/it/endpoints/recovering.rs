//! `POST /webhooks/{id}/recover`: what failed or was missed is sent, in order, and nothing twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use foreman_tests::{Receiver, ReceiverAnswer};
use serde_json::{Value, json};

use super::{House, KEY, job, path_of};

const STATES: [&str; 4] = ["queued", "loading", "working", "done"];

/// Attempts are few, so that a webhook fails soon.
const FEW: (&str, &str) = ("FOREMAN_WEBHOOK_RETRY_SCHEDULE", "10ms");

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_gets_what_it_missed_once_and_in_order() {
    let house = House::start().await;
    let before = house.run(job()).await;
    house.until_all_is_sent().await;
    let since = house.db.now().await;
    let mut jobs = Vec::new();
    for _ in 0..3 {
        jobs.push(house.run(job()).await);
    }
    house.until_all_is_sent().await;
    let endpoint = house.endpoint("/in", json!({})).await;
    let body = json!({"since": since.to_rfc3339()});
    // Two at once do not double anything, and neither does a third one after them.
    let (one, other) = tokio::join!(
        house.post(&endpoint, "recover", body.clone()),
        house.post(&endpoint, "recover", body.clone())
    );
    let recovered = |answer: &(reqwest::StatusCode, Value)| answer.1["recovered"].as_u64().unwrap();
    assert_eq!(recovered(&one) + recovered(&other), 12, "{one:?} {other:?}");
    house.until_all_is_sent().await;
    assert_eq!(recovered(&house.post(&endpoint, "recover", body).await), 0);
    house.until_all_is_sent().await;
    let came = house.came_at("/in");
    assert_eq!(came.len(), 12, "{came:?}");
    assert!(came.iter().all(|(job, _)| *job != before));
    for id in jobs {
        let states: Vec<&str> =
            came.iter().filter(|(job, _)| *job == id).map(|(_, state)| state.as_str()).collect();
        assert_eq!(states, STATES);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_is_sent_again_and_what_the_filters_leave_out_is_not() {
    let is_well = Arc::new(AtomicBool::new(false));
    let well = Arc::clone(&is_well);
    let receiver = Receiver::answering(move |_, _| {
        ReceiverAnswer::Status(if well.load(Ordering::Relaxed) { 200 } else { 500 })
    })
    .await;
    let house = House::with(receiver, &[KEY, FEW]).await;
    let endpoint = house.endpoint("/in", json!({"events": ["loading", "done"]})).await;
    house.run(job()).await;
    house.until_all_is_sent().await;
    let failed = house.api.get(&format!("{}/deliveries?status=failed", path_of(&endpoint))).await;
    assert_eq!(failed["data"].as_array().unwrap().len(), 2, "{failed}");
    is_well.store(true, Ordering::Relaxed);
    let before = house.receiver.count();
    let (_, answer) = house.post(&endpoint, "recover", json!({"since": "2026-01-01T00:00:00Z"})).await;
    assert_eq!(answer["recovered"], 2);
    house.until_all_is_sent().await;
    assert_eq!(house.states_at("/in")[before..], ["loading", "done"]);
    for since in [Value::Null, json!("yesterday"), json!(1_700_000_000)] {
        let (status, refused) = house.post(&endpoint, "recover", json!({"since": since})).await;
        assert_eq!((status.as_u16(), &refused["code"]), (400, &json!("invalid_since")));
    }
    let (_, refused) = house.post(&endpoint, "recover", json!({})).await;
    assert!(refused["error"].as_str().unwrap().starts_with("`since` is missing"), "{refused}");
}

/// Answers of a receiver by the state that a webhook tells of, and 200 to everything once it is well.
async fn moody(answers: impl Fn(&str) -> u16 + Send + Sync + 'static) -> (Receiver, Arc<AtomicBool>) {
    let is_well = Arc::new(AtomicBool::new(false));
    let well = Arc::clone(&is_well);
    let receiver = Receiver::answering(move |webhook, _| {
        let state = webhook.json()["state"].clone();
        ReceiverAnswer::Status(if well.load(Ordering::Relaxed) {
            200
        } else {
            answers(state.as_str().unwrap())
        })
    });
    (receiver.await, is_well)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_failed_comes_after_the_later_ones_that_were_delivered() {
    let (receiver, is_well) = moody(|state| if state == "loading" { 500 } else { 200 }).await;
    let house = House::with(receiver, &[KEY, FEW]).await;
    let endpoint = house.endpoint("/in", json!({})).await;
    house.run(job()).await;
    house.until_all_is_sent().await;
    is_well.store(true, Ordering::Relaxed);
    let before = house.receiver.count();
    let (_, answer) = house.post(&endpoint, "recover", json!({"since": "2026-01-01T00:00:00Z"})).await;
    assert_eq!(answer["recovered"], 1);
    house.until_all_is_sent().await;
    assert_eq!(house.states_at("/in")[before..], ["loading"]);
    assert_eq!(house.states_at("/in")[..before], ["queued", "loading", "loading", "working", "done"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_failed_comes_before_the_later_ones_that_wait() {
    let (receiver, is_well) = moody(|state| if state == "queued" { 500 } else { 410 }).await;
    let house = House::with(receiver, &[KEY, FEW]).await;
    let endpoint = house.endpoint("/in", json!({})).await;
    house.run(job()).await;
    foreman_tests::eventually("an endpoint that is disabled, and gathers the other three", async || {
        let shown = house.api.get(&path_of(&endpoint)).await;
        let gathers = shown["disabled_because"] == "gone" && shown["health"]["pending"] == 3;
        if gathers { Ok(()) } else { Err(shown) }
    })
    .await;
    is_well.store(true, Ordering::Relaxed);
    let before = house.receiver.count();
    let (_, answer) = house.post(&endpoint, "recover", json!({"since": "2026-01-01T00:00:00Z"})).await;
    assert_eq!(answer["recovered"], 1, "what waits is on its way");
    house.change(&endpoint, json!({"disabled": false})).await;
    house.until_all_is_sent().await;
    assert_eq!(house.states_at("/in")[before..], STATES);
}
