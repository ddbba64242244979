//! Endpoints that take nothing for a while: disabled, gone, deleted.

use foreman_tests::{Receiver, ReceiverAnswer, eventually};
use reqwest::Method;
use serde_json::{Value, json};

use super::{House, KEY, QUICK, job, path_of};

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_endpoint_gathers_and_goes_on_where_it_was() {
    let house = House::start().await;
    let endpoint = house.endpoint("/in", json!({"events": ["queued", "done"]})).await;
    let first = house.run(job()).await;
    house.until_received(2).await;
    let disabled = house.change(&endpoint, json!({"disabled": true})).await;
    assert_eq!((&disabled["disabled"], &disabled["disabled_because"]), (&json!(true), &json!("asked")));
    let (second, third) = (house.run(job()).await, house.run(job()).await);
    eventually("four webhooks that wait", async || {
        let health = house.api.get(&path_of(&endpoint)).await["health"].clone();
        if health["pending"] == 4 { Ok(()) } else { Err(health) }
    })
    .await;
    assert_eq!(house.receiver.count(), 2);
    house.change(&endpoint, json!({"disabled": false})).await;
    house.until_all_is_sent().await;
    let came = house.came_at("/in");
    for id in [first, second, third] {
        let states: Vec<&str> =
            came.iter().filter(|(job, _)| *job == id).map(|(_, state)| state.as_str()).collect();
        assert_eq!(states, ["queued", "done"]);
    }
    assert_eq!(came.len(), 6, "nothing comes twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_answers_410_is_disabled_and_loses_nothing() {
    let is_gone = std::sync::atomic::AtomicBool::new(true);
    let receiver = Receiver::answering(move |_, _| {
        let gone = is_gone.swap(false, std::sync::atomic::Ordering::Relaxed);
        ReceiverAnswer::Status(if gone { 410 } else { 200 })
    })
    .await;
    let house = House::with(receiver, &[KEY, QUICK]).await;
    let endpoint = house.endpoint("/in", json!({})).await;
    house.run(job()).await;
    eventually("a disabled endpoint with four webhooks that wait", async || {
        let shown = house.api.get(&path_of(&endpoint)).await;
        let is_so = shown["disabled_because"] == "gone" && shown["health"]["pending"] == 4;
        if is_so { Ok(()) } else { Err(shown) }
    })
    .await;
    assert_eq!(house.receiver.count(), 1);
    let enabled = house.change(&endpoint, json!({"disabled": false})).await;
    assert_eq!((&enabled["disabled"], &enabled["disabled_because"]), (&json!(false), &Value::Null));
    house.until_all_is_sent().await;
    assert_eq!(house.states_at("/in"), ["queued", "queued", "loading", "working", "done"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_deleted_endpoint_ends_as_endpoint_deleted() {
    let house = House::start().await;
    let endpoint = house.endpoint("/in", json!({"disabled": true})).await;
    let id = house.run(job()).await;
    eventually("four webhooks that wait", async || {
        let health = house.api.get(&path_of(&endpoint)).await["health"].clone();
        if health["pending"] == 4 { Ok(()) } else { Err(health) }
    })
    .await;
    house.ask(Method::DELETE, &path_of(&endpoint), Value::Null).await;
    house.until_all_is_sent().await;
    assert_eq!(house.receiver.count(), 0);
    let deliveries = house.api.get(&format!("/jobs/{id}/deliveries")).await;
    let deliveries = deliveries["data"].as_array().unwrap();
    assert_eq!(deliveries.len(), 4);
    for delivery in deliveries {
        assert_eq!(delivery["state"], "failed");
        assert_eq!(delivery["attempts"][0]["error_code"], "endpoint_deleted");
    }
    // A job after it is told to nobody.
    house.run(job()).await;
    house.until_all_is_sent().await;
    assert_eq!(house.db.value::<i64>("SELECT count(*) FROM webhook_attempt").await, 4);
    house.db.run("UPDATE webhook_endpoint SET deleted_at = now() - interval '2 days'").await;
    assert_eq!(house.db.store.prune_endpoints(10).await.unwrap(), 1);
}
