//! Calls of the libraries that wait far longer than their time-out for a read.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::{House, SCRIPTS, run_all};

const SOON: [(&str, &str); 2] = [("FOREMAN_HEARTBEAT", "200ms"), ("FOREMAN_HEARTBEAT_UNSTREAMED", "200ms")];

/// The time-out for a read, in seconds. The calls wait ten times as long.
const TIMEOUT: u32 = 1;

/// Makes these calls with each library while the only slot is occupied for 10 seconds, so that all of them wait.
async fn after_a_wait(house: &House, calls: &[&str]) -> Vec<(&'static str, Map<String, Value>)> {
    let until_all_wait = house.occupy("sim:fault=hang");
    house.sim.until(|log| log.running() == 1).await;
    let _ten_seconds = house.occupy("sim:tokens=1 sim:prompt-delay=10s");
    house.until_jobs("queued", 1).await;
    let calls = [&["--together"], calls].concat();
    let all_wait = async {
        house.until_jobs("queued", 1 + SCRIPTS.len() * (calls.len() - 1)).await;
        drop(until_all_wait);
    };
    tokio::join!(run_all(&house.api.url, "none", TIMEOUT, &calls), all_wait).0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_waits_longer_than_its_time_out_and_gets_its_answer() {
    let house = House::start(&SOON).await;
    let calls = ["chat", "chat_stream"];
    let direct: HashMap<_, _> = run_all(&house.sim.url(), "none", 30, &calls).await.into_iter().collect();
    for (script, through) in after_a_wait(&house, &calls).await {
        for call in calls {
            let (seen, direct) = (&through[call]["answer"], &direct[script][call]["answer"]);
            match (seen.as_array(), direct.as_array()) {
                // Ollama's own library shows the signs of life as chunks without text.
                (Some(seen), Some(direct)) => assert!(seen.ends_with(direct), "{script} {call}: {seen:?}"),
                _ => assert_eq!(seen, direct, "{script} {call}: {through:?}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_after_a_wait_is_an_error_for_every_client() {
    let house = House::start(&SOON).await;
    for (script, seen) in after_a_wait(&house, &["broken", "broken_stream"]).await {
        for (call, seen) in seen {
            assert!(seen["error"]["class"].is_string(), "{script} {call}: {seen}");
        }
    }
}
