//! `GET /jobs/{id}/stream`: whoever may see a job can follow its answer, from any place on, at any api.

use foreman_tests::{Api, http};
use futures_util::StreamExt as _;
use ollama_sim::{Fault, Moment, Trouble};
use serde_json::Value;

use super::{House, requests};
use crate::chat;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Event {
    name: String,
    id: String,
    data: String,
}

/// Reads events until the stream ends, or until `enough` of them have come.
async fn follow(api: &Api, job: &str, last: Option<&str>, enough: usize) -> Vec<Event> {
    let mut request = http().get(format!("{}/jobs/{job}/stream", api.url));
    if let Some(last) = last {
        request = request.header("last-event-id", last);
    }
    let (mut bytes, mut text) = (request.send().await.unwrap().bytes_stream(), String::new());
    while let Some(more) = bytes.next().await {
        text.push_str(std::str::from_utf8(&more.unwrap()).unwrap());
        if events(&text).len() >= enough {
            break;
        }
    }
    events(&text)
}

fn events(text: &str) -> Vec<Event> {
    let whole = text.split_inclusive("\n\n").filter(|event| event.ends_with("\n\n"));
    let field = |event: &str, name: &str| {
        let values = event.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        values.collect::<Vec<_>>().join("\n")
    };
    whole
        .map(|event| Event {
            name: field(event, "event"),
            id: field(event, "id"),
            data: field(event, "data"),
        })
        .filter(|event| !event.id.is_empty())
        .collect()
}

fn contents(events: &[Event]) -> String {
    let pieces = events.iter().filter(|event| event.name.is_empty());
    let content = |event: &Event| {
        let piece: Value = serde_json::from_str(&event.data).unwrap();
        piece["message"]["content"].as_str().unwrap().to_owned()
    };
    pieces.map(content).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_followed_while_it_runs_and_after_its_end() {
    let house = House::start(&[], &[]).await;
    let job = house.api.submit(&chat("sim:echo one two three four sim:token-delay=20ms")).await;
    let live = follow(&house.api, &job, None, usize::MAX).await;
    let end = live.last().unwrap();
    assert_eq!(
        (end.name.as_str(), end.id.as_str(), end.data.as_str()),
        ("end", "1:end", r#"{"state":"done"}"#)
    );
    let shown = house.api.get(&format!("/jobs/{job}?wait=10")).await;
    assert_eq!(contents(&live), shown["result"]["message"]["content"].as_str().unwrap());

    let after = follow(&house.api, &job, None, usize::MAX).await;
    assert_eq!(after.len(), 2, "the joined answer is one piece: {after:?}");
    assert_eq!(serde_json::from_str::<Value>(&after[0].data).unwrap(), shown["result"]);
    let again = follow(&house.api, &job, Some(&live[1].id), usize::MAX).await;
    assert_eq!(again[0].name, "restart", "the joined answer has other bytes than the pieces: {again:?}");
    assert_eq!(again[1..], after);
    let over = http().get(format!("{}/jobs/{job}/stream", house.api.url)).header("last-event-id", "1:end");
    assert_eq!(over.send().await.unwrap().status(), 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_comes_back_gets_the_rest_of_a_call_at_any_api() {
    let house = House::start(&[], &[]).await;
    let other = Api::start(&house.db, &[]).await;
    for (path, mut body) in requests(true) {
        let key = if body["messages"].is_null() {
            if body["input"].is_null() { "prompt" } else { "input" }
        } else {
            "messages"
        };
        let words = "sim:tokens=12 sim:token-delay=20ms";
        body[key] = if key == "messages" {
            serde_json::json!([{"role": "user", "content": words}])
        } else {
            words.into()
        };
        let answer = house.call(path, &body).await;
        let job = answer.headers()["foreman-job"].to_str().unwrap().to_owned();
        let (answer, first) = tokio::join!(answer.bytes(), follow(&other, &job, None, 3));
        let rest = follow(&house.api, &job, Some(&first[2].id), usize::MAX).await;
        let whole = follow(&other, &job, None, usize::MAX).await;
        assert_eq!([&first[..3], &rest].concat(), whole, "{path}");
        let end: u64 = whole[whole.len() - 2].id.split_once(':').unwrap().1.parse().unwrap();
        assert_eq!(end, answer.unwrap().len() as u64, "{path}");
        assert_eq!(whole.last().unwrap().data, r#"{"state":"done"}"#);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_attempt_begins_the_answer_anew() {
    // Ollama falls silent in the middle of the first attempt, for long enough to be followed.
    let house = House::start(&[], &[("FOREMAN_IDLE_TIMEOUT", "2s")]).await;
    house.sim.fault(Fault::new(Trouble::Hang, Moment::Tokens(2)).once());
    let job = house.api.submit(&chat("sim:echo one two three")).await;
    let events = follow(&house.api, &job, None, usize::MAX).await;
    let restart = events.iter().position(|event| event.name == "restart").unwrap();
    assert_eq!(events[restart].id, "2:0", "{events:?}");
    let shown = house.api.get(&format!("/jobs/{job}?wait=10")).await;
    assert_eq!(contents(&events[restart..]), shown["result"]["message"]["content"].as_str().unwrap());
}
