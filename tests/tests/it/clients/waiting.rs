//! Calls of the libraries that wait far longer than their time-out for a read.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::{House, SCRIPTS, run, run_all};

const SOON: [(&str, &str); 2] = [("FOREMAN_HEARTBEAT", "200ms"), ("FOREMAN_HEARTBEAT_UNSTREAMED", "200ms")];

/// The time-out for a read, in seconds. The calls wait ten times as long.
const TIMEOUT: u32 = 1;

/// Makes these calls with these libraries while the only slot is occupied for 10 seconds, so that all of them wait.
async fn after_a_wait(
    house: &House,
    scripts: &[&'static str],
    calls: &[&str],
) -> Vec<(&'static str, Map<String, Value>)> {
    let until_all_wait = house.occupy("sim:fault=hang");
    house.sim.until(|log| log.running() == 1).await;
    let _ten_seconds = house.occupy("sim:tokens=1 sim:prompt-delay=10s");
    house.until_jobs("queued", 1).await;
    let calls = [&["--together"], calls].concat();
    let all_wait = async {
        house.until_jobs("queued", 1 + scripts.len() * (calls.len() - 1)).await;
        drop(until_all_wait);
    };
    tokio::join!(run_all(scripts, &house.api.url, "none", TIMEOUT, &calls), all_wait).0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_waits_longer_than_its_time_out_and_gets_its_answer_or_an_error() {
    let house = House::for_scripts(&SOON).await;
    let (calls, fails) = (["chat", "chat_stream"], ["broken", "broken_stream"]);
    let direct: HashMap<_, _> =
        run_all(&SCRIPTS, &house.sim.url(), "none", 30, &calls).await.into_iter().collect();
    for (script, through) in after_a_wait(&house, &SCRIPTS, &[&calls[..], &fails].concat()).await {
        for call in fails {
            let seen = &through[call];
            assert!(seen["error"]["class"].is_string(), "{script} {call}: {seen}");
        }
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

/// Both ways of OpenAI's libraries to stream a response. The helper is strict about the order of events and about ids.
#[tokio::test(flavor = "multi_thread")]
async fn openais_libraries_wait_for_a_response_in_each_of_their_ways() {
    let house = House::for_scripts(&SOON).await;
    let calls = ["responses", "responses_stream", "responses_helper", "broken_responses", "broken_helper"];
    let scripts = ["with_openai.py", "with_openai.cjs"];
    for (script, seen) in after_a_wait(&house, &scripts, &calls).await {
        let direct = run(script, &house.sim.url(), "none", 30, &calls).await;
        for (call, seen) in seen {
            if call.starts_with("broken") {
                assert_eq!(seen["error"]["class"], "APIError", "{script} {call}: {seen}");
            } else {
                assert_eq!(seen, direct[&call], "{script} {call}");
            }
        }
    }
}
