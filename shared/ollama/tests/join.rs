//! Joining a recorded stream gives the recorded unstreamed answer, byte for byte, except times and ids.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod blanked;

use blanked::comparable;
use foreman_ollama::{Failure, FailureKind, Join, Metrics, Pushed, Route};
use serde_json::value::RawValue;

#[derive(serde::Deserialize)]
struct Pair {
    case: String,
    ollama: String,
    path: String,
    stream: String,
    unstreamed: String,
}

fn pairs() -> Vec<Pair> {
    let pairs: Vec<Pair> =
        include_str!("data/pairs.ndjson").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(pairs.len(), 20);
    pairs
}

fn join(route: Route, stream: &str) -> Result<foreman_ollama::Joined, Failure> {
    let mut join = Join::new(route, 1 << 20);
    let mut progress = Pushed::More;
    for line in stream.lines() {
        assert_eq!(progress, Pushed::More, "no line follows the last");
        progress = join.push(line.as_bytes())?;
    }
    join.finish()
}

#[test]
fn a_joined_stream_is_the_unstreamed_answer() {
    for pair in pairs() {
        let joined = join(pair.path.parse().unwrap(), &pair.stream).unwrap();
        assert_eq!(comparable(&joined.body), comparable(&pair.unstreamed), "{} {}", pair.ollama, pair.case);
        assert_ne!(joined.metrics.eval_count, 0);
    }
}

#[test]
fn an_unstreamed_answer_and_a_load_pass_unchanged() {
    for pair in pairs() {
        let joined = join(pair.path.parse().unwrap(), &pair.unstreamed).unwrap();
        assert_eq!(joined.body, pair.unstreamed);
    }
    let load = r#"{"model":"a","created_at":"x","message":{"role":"assistant","content":""},"done":true,"done_reason":"load"}"#;
    let joined = join(Route::Chat, load).unwrap();
    assert_eq!((joined.body.as_str(), joined.metrics), (load, Metrics::default()));
}

#[test]
fn numbers_escapes_and_key_order_stay_as_they_came() {
    let stream = concat!(
        r#"{"model":"a","message":{"role":"assistant","content":"\u003cb\u003e","tool_calls":[{"function":{"arguments":{"z":1.0,"a":1e2,"a":3}}}]},"done":false,"logprobs":[{"logprob":-0.10}]}"#,
        "\n",
        r#"{"model":"a","message":{"role":"assistant","content":"\n\"ä","thinking":"hm"},"done":false,"logprobs":[{"logprob":-1E-7}, {"x":1}]}"#,
        "\n",
        r#"{"model":"a","created_at":"t","message":{"role":"assistant","content":""},"done":true,"done_reason":"stop","eval_count":12345678901234567890123,"new":[ 1 ]}"#,
        "\n",
    );
    assert_eq!(
        join(Route::Chat, stream).unwrap().body,
        concat!(
            r#"{"model":"a","created_at":"t","message":{"role":"assistant","content":"\u003cb\u003e\n\"ä","thinking":"hm","#,
            r#""tool_calls":[{"function":{"arguments":{"z":1.0,"a":1e2,"a":3}}}]},"done":true,"done_reason":"stop","#,
            r#""logprobs":[{"logprob":-0.10},{"logprob":-1E-7}, {"x":1}],"eval_count":12345678901234567890123,"new":[ 1 ]}"#,
        )
    );
}

#[test]
fn generate_has_its_own_order_of_keys() {
    let stream = concat!(
        r#"{"model":"a","created_at":"s","response":"","thinking":"t1","done":false,"logprobs":[1]}"#,
        "\n",
        r#"{"model":"a","created_at":"s","response":"r","done":false,"tool_calls":[{"n":1}]}"#,
        "\n",
        r#"{"model":"a","created_at":"t","response":"","done":true,"done_reason":"stop","context":[1,2],"total_duration":5,"eval_count":2}"#,
    );
    let joined = join(Route::Generate, stream).unwrap();
    assert_eq!(
        joined.body,
        r#"{"model":"a","created_at":"t","response":"r","thinking":"t1","done":true,"done_reason":"stop","context":[1,2],"total_duration":5,"eval_count":2,"tool_calls":[{"n":1}],"logprobs":[1]}"#
    );
    serde_json::from_str::<&RawValue>(&joined.body).unwrap();
}

#[test]
fn what_is_no_complete_answer_is_a_failure_of_its_kind() {
    let line = r#"{"message":{"content":"x"},"done":false}"#;
    let done = r#"{"message":{"content":""},"done":true}"#;
    for (stream, kind, code) in [
        (String::new(), FailureKind::MayPass, "ollama_ended_early"),
        (line.to_owned(), FailureKind::MayPass, "ollama_ended_early"),
        (
            format!(
                "{line}\n{}",
                r#"{"error":"an error was encountered while running the model: unexpected EOF"}"#
            ),
            FailureKind::MayPass,
            "runner_stopped",
        ),
        (
            format!("{line}\n{}", r#"{"error":"the model cannot do that"}"#),
            FailureKind::Lasting,
            "ollama_error",
        ),
        (format!("{line}\n{}", r#"{"error":{"code":1}}"#), FailureKind::Lasting, "ollama_error"),
        (format!("{line}\n<html>"), FailureKind::MayPass, "ollama_unreadable"),
        (format!("{line}\n[1]"), FailureKind::MayPass, "ollama_unreadable"),
        (format!("{line}\n{}", r#"{"done":tru"#), FailureKind::MayPass, "ollama_unreadable"),
    ] {
        let failure = join(Route::Chat, &stream).unwrap_err();
        assert_eq!((failure.kind(), failure.code()), (kind, code), "{stream}");
    }
    let mut finished = Join::new(Route::Chat, 100);
    finished.push(done.as_bytes()).unwrap();
    assert_eq!(finished.push(done.as_bytes()).unwrap_err().code(), "ollama_unreadable");
    assert_eq!(Join::new(Route::Chat, 100).push(b"\xff").unwrap_err().code(), "ollama_unreadable");
}

#[test]
fn an_answer_past_the_limit_fails_for_good() {
    let mut join = Join::new(Route::Generate, 10);
    assert_eq!(join.push(br#"{"response":"0123456789"}"#).unwrap(), Pushed::More);
    let failure = join.push(br#"{"response":"x"}"#).unwrap_err();
    assert_eq!((failure.kind(), failure.code()), (FailureKind::Lasting, "result_too_large"));
}
