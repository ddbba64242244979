//! Calls that wait longer than their caller would bear: signs of life, and errors after one.

use foreman_tests::eventually;
use ollama_sim::{Kind, Outcome};
use serde_json::{Value, json};

use super::{House, answered, call, comparable, requests};

const SOON: [(&str, &str); 2] = [("FOREMAN_HEARTBEAT", "200ms"), ("FOREMAN_HEARTBEAT_UNSTREAMED", "200ms")];

fn chat(prompt: &str) -> Value {
    json!({"model": "tiny-a", "messages": [{"role": "user", "content": prompt}], "stream": false})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_waits_shows_signs_of_life_and_then_its_answer() {
    let house = House::start(&SOON, &[]).await;
    for stream in [true, false] {
        for (path, body) in requests(stream) {
            let direct = answered(call(&house.sim.url(), path, &body).await).await;
            let mut occupied = house.call("/api/chat", &chat("sim:fault=hang")).await;
            let _begun = occupied.chunk().await.unwrap();
            let through = house.call(path, &body).await;
            drop(occupied);
            let through = answered(through).await;
            assert_eq!(through.status, 200);
            let signs: fn(&str) -> bool = match (stream, path) {
                (false, _) => |body| body.starts_with(' '),
                (true, "/api/chat" | "/api/generate") => {
                    |body| body.lines().next().unwrap().contains(r#""done":false"#)
                }
                (true, "/v1/responses") => |body| body.starts_with("event: response.queued\n"),
                (true, "/v1/messages") => |body| body.starts_with("event: ping\n"),
                (true, _) => |body| body.starts_with(": "),
            };
            assert!(signs(&through.body), "{path} {stream}: {}", through.body);
            let after = comparable(&through);
            let end = comparable(&direct);
            let answer = end.split_once('\n').unwrap().1.trim_start();
            assert!(after.ends_with(answer), "{path} {stream}:\n{after}\n\n{answer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_after_a_sign_of_life_is_never_an_answer() {
    let house = House::start(&SOON, &[]).await;
    for stream in [true, false] {
        for (path, mut body) in requests(stream) {
            // Ollama answers 500 to this, after the call has waited.
            body["model"] = "tiny-b".into();
            let mut occupied = house.call("/api/chat", &chat("sim:fault=hang")).await;
            let _begun = occupied.chunk().await.unwrap();
            house.sim.fault(ollama_sim::Fault::new(
                ollama_sim::Trouble::Error { status: 500, text: "it is broken".to_owned() },
                ollama_sim::Moment::Arrival,
            ));
            let through = house.call(path, &body).await;
            drop(occupied);
            let whole = through.text().await;
            match (stream, path) {
                (false, _) => assert!(whole.is_err(), "{path}: {whole:?}"),
                (true, "/api/chat" | "/api/generate") => {
                    let text = whole.unwrap();
                    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
                    assert!(last["error"].as_str().unwrap().contains("it is broken"), "{text}");
                }
                (true, "/v1/messages") => {
                    let text = whole.unwrap();
                    assert!(text.contains("event: error\ndata: {\"type\":\"error\",\"error\":{"), "{text}");
                    assert!(text.contains("it is broken"), "{text}");
                }
                (true, _) => {
                    let text = whole.unwrap();
                    let last = text.lines().rev().find_map(|line| line.strip_prefix("data: ")).unwrap();
                    let last: Value = serde_json::from_str(last).unwrap();
                    assert!(last["error"]["message"].as_str().unwrap().contains("it is broken"), "{text}");
                    assert!(!text.contains("[DONE]"), "{text}");
                }
            }
            house.sim.reset();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_goes_before_jobs_of_the_same_priority_that_nobody_waits_for() {
    let house = House::start(&SOON, &[]).await;
    let mut occupied = house.call("/api/chat", &chat("sim:fault=hang")).await;
    let _begun = occupied.chunk().await.unwrap();
    for _ in 0..3 {
        house.api.submit(&crate::chat("a job")).await;
    }
    let call = chat("a call");
    let (answer, ()) = tokio::join!(house.call("/api/chat", &call), async {
        eventually("the call in the queue", async || {
            let calls: i64 = house.db.value("SELECT count(*) FROM job_ready WHERE sync").await;
            if calls == 1 { Ok(()) } else { Err(calls) }
        })
        .await;
        drop(occupied);
    });
    assert_eq!(answered(answer).await.status, 200);
    house.sim.until(|log| log.completed == 4).await;
    let order: Vec<bool> = house
        .sim
        .log()
        .records
        .iter()
        .filter(|record| record.outcome == Some(Outcome::Done) && record.kind == Kind::Run)
        .map(|record| String::from_utf8_lossy(&record.body).contains("a call"))
        .collect();
    assert_eq!(order, [true, false, false, false]);
}
