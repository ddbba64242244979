//! Which bytes change when a context is written, and what Ollama reads then.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::object::Members;

fn set(body: &str, length: i64) -> String {
    write_context(Route::Chat, body, Some(length))
}

fn take_out(body: &str) -> String {
    write_context(Route::Chat, body, None)
}

#[test]
fn a_length_replaces_the_one_that_counts_or_is_added() {
    for (body, written) in [
        (r#"{"model":"a"}"#, r#"{"model":"a","options":{"num_ctx":9}}"#),
        (r#"{}"#, r#"{"options":{"num_ctx":9}}"#),
        ("  { } \n", "  { \"options\":{\"num_ctx\":9}} \n"),
        (r#"{"options":{},"model":"a"}"#, r#"{"options":{"num_ctx":9},"model":"a"}"#),
        (r#"{"options":{ "seed" : 1 }}"#, r#"{"options":{"num_ctx":9, "seed" : 1 }}"#),
        (r#"{"options":{"num_ctx":4096,"seed":1}}"#, r#"{"options":{"num_ctx":9,"seed":1}}"#),
        (r#"{"options":{"seed":1, "num_ctx" : 4.5e3 }}"#, r#"{"options":{"seed":1, "num_ctx" : 9 }}"#),
        (r#"{"options":{"num_ctx":null}}"#, r#"{"options":{"num_ctx":9}}"#),
        (r#"{"options":null}"#, r#"{"options":null,"options":{"num_ctx":9}}"#),
        // The object before the null must stay forgotten.
        (
            r#"{"options":{"seed":1},"options":null}"#,
            r#"{"options":{"seed":1},"options":null,"options":{"num_ctx":9}}"#,
        ),
        // Repeated objects are one object to Go.
        (
            r#"{"options":{"num_ctx":1},"OPTIONS":{"seed":1}}"#,
            r#"{"options":{"num_ctx":9},"OPTIONS":{"seed":1}}"#,
        ),
        (r#"{"Options":{"num_ctx":1,"num_ctx":2}}"#, r#"{"Options":{"num_ctx":1,"num_ctx":9}}"#),
        // The long s of Unicode is an s to Go.
        ("{\"option\u{17f}\":{\"num_ctx\":1}}", "{\"option\u{17f}\":{\"num_ctx\":9}}"),
        // The case of an option counts.
        (r#"{"options":{"NUM_CTX":1}}"#, r#"{"options":{"num_ctx":9,"NUM_CTX":1}}"#),
        (r#"{"options":{"num\u005fctx":1}}"#, r#"{"options":{"num\u005fctx":9}}"#),
        (r#"{"\u006fptions":{"\ud800":1}}"#, r#"{"\u006fptions":{"num_ctx":9,"\ud800":1}}"#),
        // Only the options of the request itself count.
        (
            r#"{"messages":[{"options":{"num_ctx":1},"content":"\"options\":{\"num_ctx\":1}"}]}"#,
            r#"{"messages":[{"options":{"num_ctx":1},"content":"\"options\":{\"num_ctx\":1}"}],"options":{"num_ctx":9}}"#,
        ),
    ] {
        assert_eq!(set(body, 9), written, "{body}");
        assert_eq!(set(written, 9), written, "again");
    }
}

#[test]
fn a_length_that_was_written_leaves_no_trace_when_it_is_taken_out() {
    for body in [
        r#"{"options":{"seed":1}}"#,
        r#"{"options":{}, "model":"a"}"#,
        r#"{"options":{},"OPTIONS":{ "a":[1] }}"#,
    ] {
        assert_eq!(take_out(&set(body, 4096)), body);
    }
}

#[test]
fn every_length_is_taken_out_with_one_comma() {
    for (body, written) in [
        (r#"{"options":{"num_ctx":1}}"#, r#"{"options":{}}"#),
        (r#"{"options":{ "num_ctx" : 1 , "seed":1}}"#, r#"{"options":{ "seed":1}}"#),
        (r#"{"options":{"seed":1 , "num_ctx":1 }}"#, r#"{"options":{"seed":1 }}"#),
        (r#"{"options":{"a":1,"num_ctx":1,"b":2}}"#, r#"{"options":{"a":1,"b":2}}"#),
        (r#"{"options":{"num_ctx":1,"num_ctx":2}}"#, r#"{"options":{}}"#),
        (r#"{"options":{"num_ctx":1,"a":1,"num_ctx":2,"num_ctx":3}}"#, r#"{"options":{"a":1}}"#),
        (r#"{"options":{"a":1,"num_ctx":1,"num_ctx":2,"b":2}}"#, r#"{"options":{"a":1,"b":2}}"#),
        (r#"{"options":{"num_ctx":1},"OPTIONS":{"num_ctx":2,"a":1}}"#, r#"{"options":{},"OPTIONS":{"a":1}}"#),
        (r#"{"options":{"num_ctx":"x","num_ctx":2}}"#, r#"{"options":{}}"#),
        (
            r#"{"options":{"num_ctx":1},"options":null,"options":{"num_ctx":2}}"#,
            r#"{"options":{"num_ctx":1},"options":null,"options":{}}"#,
        ),
    ] {
        assert_eq!(take_out(body), written, "{body}");
    }
}

#[test]
fn a_body_that_is_right_or_hopeless_stays_as_it_is() {
    for (body, length) in [
        (r#"{"model":"a"}"#, None),
        (r#"{"options":null}"#, None),
        (r#"{"options":{"num_ctx":null}}"#, None),
        (r#"{"options":{"num_ctx":5,"num_ctx":null}}"#, None),
        (r#"{"options":{"num_ctx":5},"options":null}"#, None),
        (r#"{ "options" : { "num_ctx" : 9.7 } }"#, Some(9)),
        (r#"{"options":{"num_ctx":0.9e1}}"#, Some(9)),
        // Ollama refuses these.
        (r#"{"options":{"num_ctx":"9"}}"#, Some(8)),
        (r#"{"options":{"num_ctx":"9"}}"#, None),
        (r#"{"options":{"num_ctx":[1]}}"#, Some(8)),
        (r#"{"options":{"num_ctx":true}}"#, None),
        (r#"{"options":{"num_ctx":1e300}}"#, None),
        ("null", Some(8)),
        ("[1]", Some(8)),
        ("", Some(8)),
        (r#"{"options":{"num_ctx":1}"#, Some(8)),
        (r#"{"options":{"num_ctx":1]"#, Some(8)),
    ] {
        assert_eq!(write_context(Route::Generate, body, length), body);
    }
    let body = r#"{"model":"a","options":{"num_ctx":1}}"#;
    for route in Route::ALL {
        let written = write_context(route, body, Some(8));
        assert_eq!(written != body, route.is_native(), "{route}");
    }
}

#[test]
fn requests_of_real_clients_keep_their_form() {
    for (body, written) in [
        // Home Assistant.
        (
            r#"{"model": "llama3.2", "messages": [{"role": "user", "content": "hi"}], "tools": [], "stream": true, "options": {"num_ctx": 8192}, "keep_alive": "-1s"}"#,
            r#"{"model": "llama3.2", "messages": [{"role": "user", "content": "hi"}], "tools": [], "stream": true, "options": {"num_ctx": 16384}, "keep_alive": "-1s"}"#,
        ),
        // LlamaIndex.
        (
            r#"{"model":"llama3.2","messages":[],"stream":false,"options":{"temperature":0.75,"num_ctx":3900},"keep_alive":"5m"}"#,
            r#"{"model":"llama3.2","messages":[],"stream":false,"options":{"temperature":0.75,"num_ctx":16384},"keep_alive":"5m"}"#,
        ),
        // ollama-python without options.
        (
            r#"{"model":"llama3.2","stream":false,"options":{},"messages":[{"role":"user","content":"hi"}],"tools":[]}"#,
            r#"{"model":"llama3.2","stream":false,"options":{"num_ctx":16384},"messages":[{"role":"user","content":"hi"}],"tools":[]}"#,
        ),
        // Continue.
        (
            r#"{"model":"qwen2.5-coder","raw":true,"options":{"num_predict":256,"num_ctx":2048,"stop":["\n\n"]},"prompt":"x"}"#,
            r#"{"model":"qwen2.5-coder","raw":true,"options":{"num_predict":256,"num_ctx":16384,"stop":["\n\n"]},"prompt":"x"}"#,
        ),
    ] {
        assert_eq!(set(body, 16384), written);
    }
}

#[test]
fn a_large_body_is_read_once_and_copied_once() {
    let message = "x\\n".repeat(4 << 20);
    let body = format!(r#"{{"messages":[{{"content":"{message}"}}],"options":{{"num_ctx":1}}}}"#);
    let written = set(&body, 4096);
    assert_eq!(written.len(), body.len() + 3);
    assert!(written.capacity() < body.len() + 64, "it never grew");
    let many = format!(r#"{{"options":{{{}"num_ctx":2}}}}"#, r#""num_ctx":1,"#.repeat(100_000));
    assert_eq!(take_out(&many), r#"{"options":{}}"#);
}

/// What Ollama reads: the raw values of the last members, case aside, and the options of all objects together.
#[derive(Debug, PartialEq, Eq)]
struct Reading {
    members: BTreeMap<String, String>,
    options: BTreeMap<String, String>,
}

fn reading(body: &str) -> Reading {
    let (mut members, mut options) = (BTreeMap::new(), BTreeMap::new());
    for member in Members::parse(body).unwrap().0 {
        let (key, value) = (member.key.to_lowercase().replace('\u{17f}', "s"), member.value.get());
        if key != "options" {
            members.insert(key, value.to_owned());
        } else if value == "null" {
            options.clear();
        } else {
            let read = Members::parse(value).unwrap().0;
            options.extend(read.into_iter().map(|one| (one.key.into_owned(), one.value.get().to_owned())));
        }
    }
    // An option that is null is as good as none.
    options.retain(|_, value| value != "null");
    Reading { members, options }
}

impl Reading {
    fn without_context(mut self) -> Self {
        self.options.remove(NUM_CTX);
        self
    }
}

fn spaced(text: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    (prop::sample::select(vec!["", " ", "\n\t"]), text, prop::sample::select(vec!["", " "]))
        .prop_map(|(before, text, after)| format!("{before}{text}{after}"))
}

fn one_of(texts: &[&'static str]) -> impl Strategy<Value = String> {
    prop::sample::select(texts.to_vec()).prop_map(str::to_owned)
}

fn object(member: impl Strategy<Value = (String, String)>) -> impl Strategy<Value = String> {
    prop::collection::vec(member, 0..6).prop_map(|members| {
        let members: Vec<_> = members.iter().map(|(key, value)| format!("{key}:{value}")).collect();
        format!("{{{}}}", members.join(","))
    })
}

/// Bodies that Ollama accepts, with every shape of options and of what resembles them.
fn body() -> impl Strategy<Value = String> {
    let option = (
        spaced(one_of(&[
            r#""num_ctx""#,
            r#""num_ctx""#,
            r#""num\u005fctx""#,
            r#""Num_Ctx""#,
            r#""seed""#,
            r#""ä\"{""#,
        ])),
        spaced(one_of(&["1", "-1", "4096", "2048.9", "1e3", "null"])),
    );
    let options = (
        spaced(one_of(&[
            r#""options""#,
            r#""options""#,
            r#""OPTIONS""#,
            "\"option\u{17f}\"",
            r#""option\u0073""#,
        ])),
        spaced(prop_oneof![4 => object(option), 1 => Just("null".to_owned())]),
    );
    let other = (
        spaced(one_of(&[r#""model""#, r#""messages""#, r#""num_ctx""#, r#""x,\\""#])),
        spaced(one_of(&[
            r#""a""#,
            "1.50e+3",
            r#"[{"options":{"num_ctx":7}}]"#,
            r#""},{\"num_ctx\":8,""#,
            "{ }",
        ])),
    );
    spaced(object(prop_oneof![options, other]))
}

/// What lies between the common beginning and the common end of two texts.
fn difference<'a>(before: &'a str, after: &'a str) -> (&'a str, &'a str) {
    let same = |pairs: &mut dyn Iterator<Item = (char, char)>| -> usize {
        pairs.take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum()
    };
    let start = same(&mut before.chars().zip(after.chars()));
    let (before, after) = (&before[start..], &after[start..]);
    let end = same(&mut before.chars().rev().zip(after.chars().rev()));
    (&before[..before.len() - end], &after[..after.len() - end])
}

proptest! {
    #[test]
    fn ollama_reads_the_new_length_and_everything_else_as_before(body in body(), length in 1_i64..100_000) {
        let before = reading(&body);
        let length_before = before.options.get(NUM_CTX).cloned();
        let written = set(&body, length);
        let after = reading(&written);
        prop_assert_eq!(after.options.get(NUM_CTX).and_then(|raw| go_json::integer(raw)), Some(length));
        prop_assert_eq!(after.without_context(), before.without_context());

        let (gone, new) = difference(&body, &written);
        prop_assert!(length_before.as_deref().unwrap_or("null").contains(gone), "{gone:?} is gone");
        let added = format!(r#","options":{{"num_ctx":{length}}}"#);
        prop_assert!(new.len() <= added.len(), "{new:?} is new");
        prop_assert_eq!(set(&written, length), written.clone());
        // Another length takes the same place.
        prop_assert_eq!(set(&set(&body, length + 1), length), written);
    }

    #[test]
    fn ollama_reads_no_length_any_more_and_everything_else_as_before(body in body()) {
        let before = reading(&body);
        let had_one = before.options.contains_key(NUM_CTX);
        let written = take_out(&body);
        let after = reading(&written);
        prop_assert_eq!(after.options.get(NUM_CTX), None);
        prop_assert_eq!(after, before.without_context());
        prop_assert!(had_one || written == body);
        prop_assert_eq!(take_out(&written), written);
    }

    #[test]
    fn no_text_makes_it_panic(body in r#"[{}\[\]",:0-9a-z \\]{0,40}"#, length in prop::option::of(any::<i64>())) {
        write_context(Route::Chat, &body, length);
        write_context(Route::Chat, &format!(r#"{{"options":{{"num_ctx":{body}"#), length);
    }
}
