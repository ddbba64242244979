//! Which bodies are valid and which are not: chosen cases first, then generated ones.

use proptest::prelude::*;

use super::*;

fn error(body: impl AsRef<[u8]>) -> JobBodyError {
    let body = body.as_ref();
    match JobBody::parse(body) {
        Err(error) => error,
        Ok(job) => panic!("{} was accepted as {job:?}", String::from_utf8_lossy(body)),
    }
}

#[test]
fn a_payload_keeps_places_and_bytes_of_what_is_not_ours() {
    let job = JobBody::parse(
        br#" { "messages" : [ {"role":"user","content":"a\u0000\ud800<"} ], "priority":5, "x":1.50e+400,
            "stream" : false, "Tools":[], "model":"Llama3.2", "keep_alive":"9h", "metadata": {"k":"\u0000"},
            "options":{"seed":7, "num_ctx":4096} } "#,
    )
    .unwrap();
    assert_eq!(
        job.payload,
        r#"{"messages":[ {"role":"user","content":"a\u0000\ud800<"} ],"x":1.50e+400,"stream":true,"Tools":[],"model":"Llama3.2","options":{"seed":7, "num_ctx":4096}}"#
    );
    assert_eq!((job.route, job.model.as_str()), (Route::Chat, "Llama3.2"));
    assert_eq!(job.load_key.as_str(), "llama3.2:latest num_ctx=4096");
    assert_eq!(job.own("priority").unwrap().get(), "5");
    assert_eq!(job.own("metadata").unwrap().get(), r#"{"k":"\u0000"}"#);
    assert!(job.own("run_at").is_none());
}

#[test]
fn a_stream_key_is_added_last_where_there_is_none() {
    let job = JobBody::parse(br#"{"prompt":"x","model":"a","messages":null,"options":null}"#).unwrap();
    assert_eq!(job.payload, r#"{"prompt":"x","model":"a","messages":null,"options":null,"stream":true}"#);
    assert_eq!(job.route, Route::Generate);
}

#[test]
fn a_key_written_with_escapes_is_the_key_it_means() {
    let job =
        JobBody::parse(br#"{"\u006dodel":"a","prompt":"x","prio\u0072ity":1,"strea\u006d":false}"#).unwrap();
    assert_eq!(job.payload, r#"{"model":"a","prompt":"x","stream":true}"#);
    assert!(job.own("priority").is_some());
    assert_eq!(error(r#"{"model":"a","\u006dodel":"b","prompt":"x"}"#).code(), "repeated_key");
}

#[test]
fn every_wrong_body_has_its_code() {
    let deep = |levels: usize| {
        format!(r#"{{"model":"a","prompt":"x","d":{}1{}}}"#, "[".repeat(levels), "]".repeat(levels))
    };
    let keys = |count: usize| {
        let members: Vec<String> = (0..count).map(|key| format!(r#""{key}":1"#)).collect();
        format!("{{{}}}", members.join(","))
    };
    let long = format!(r#"{{"model":"{}","prompt":"x"}}"#, "m".repeat(100_000));
    for (body, code) in [
        ("", "body_missing"),
        (" \n\t", "body_missing"),
        ("\u{feff}{}", "not_utf8"),
        ("hello", "not_json"),
        ("\0", "not_json"),
        (r#"{"model":"a""#, "not_json"),
        (r#"{"model":"a",}"#, "not_json"),
        (r#"{model:"a"}"#, "not_json"),
        ("{\"model\":\"a\0\",\"prompt\":\"x\"}", "not_json"),
        (r#"{"model":"a","prompt":"x","n":01}"#, "not_json"),
        (r#"{"model":"a","prompt":"x","n":NaN}"#, "not_json"),
        (r#"{"\ud800":1,"model":"a","prompt":"x"}"#, "not_json"),
        ("[1]", "not_an_object"),
        ("null", "not_an_object"),
        ("\"x\"", "not_an_object"),
        (r#"{"model":"a","prompt":"x"} x"#, "trailing_data"),
        (r#"{"model":"a","prompt":"x"}{}"#, "trailing_data"),
        (&deep(100), "too_deep"),
        (&deep(10_000), "too_deep"),
        (&"[".repeat(10_000), "not_json"),
        (&"{\"a\":".repeat(100_000), "too_deep"),
        (&keys(1_001), "too_many_keys"),
        (&keys(1_000_000), "too_many_keys"),
        (&format!(r#"{{"model":"a","prompt":"x","options":{}}}"#, keys(1_001)), "invalid_options"),
        (r#"{"model":"a","prompt":"x","z":1,"z":1}"#, "repeated_key"),
        (r#"{"Model":"a","prompt":"x"}"#, "key_in_other_case"),
        (r#"{"model":"a","prompt":"x","STREAM":false}"#, "key_in_other_case"),
        (r#"{"model":"a","prompt":"x","Keep_Alive":0}"#, "key_in_other_case"),
        (r#"{"model":"a","prompt":"x","Priority":0}"#, "key_in_other_case"),
        (r#"{"model":"a","prompt":"x","meſſages":[]}"#, "key_in_other_case"),
        ("{\"model\":\"a\",\"prompt\":\"x\",\"\u{212a}eep_alive\":0}", "key_in_other_case"),
        (r#"{"prompt":"x"}"#, "model_missing"),
        (r#"{"model":null,"prompt":"x"}"#, "invalid_model"),
        (r#"{"model":"","prompt":"x"}"#, "invalid_model"),
        (r#"{"model":5,"prompt":"x"}"#, "invalid_model"),
        (r#"{"model":"a\u0000","prompt":"x"}"#, "invalid_model"),
        (r#"{"model":"a\ud800","prompt":"x"}"#, "invalid_model"),
        (r#"{"model":"a b/c d","prompt":"x"}"#, "invalid_model"),
        (&long, "invalid_model"),
        (r#"{"model":"a"}"#, "nothing_to_run"),
        (r#"{"model":"a","prompt":null}"#, "nothing_to_run"),
        (r#"{"model":"a","prompt":"x","messages":[{}]}"#, "two_things_to_run"),
        (r#"{"model":"a","messages":[]}"#, "invalid_messages"),
        (r#"{"model":"a","messages":[ ]}"#, "invalid_messages"),
        (r#"{"model":"a","messages":"x"}"#, "invalid_messages"),
        (r#"{"model":"a","messages":{"0":1}}"#, "invalid_messages"),
        (r#"{"model":"a","prompt":""}"#, "invalid_prompt"),
        (r#"{"model":"a","prompt":["x"]}"#, "invalid_prompt"),
        (r#"{"model":"a","prompt":"x","options":[1]}"#, "invalid_options"),
        (r#"{"model":"a","prompt":"x","options":{"num_ctx":"big"}}"#, "invalid_options"),
        (r#"{"model":"a","prompt":"x","options":{"num_ctx":1e999}}"#, "invalid_options"),
        (r#"{"model":"a","prompt":"x","shift":"no"}"#, "invalid_options"),
        (r#"{"model":"a","prompt":"x","stream":"yes"}"#, "invalid_stream"),
    ] {
        let error = error(body);
        let shown: String = body.chars().take(80).collect();
        assert_eq!(error.code(), code, "{shown}");
        let text = error.to_string();
        assert!(text.len() < 300 && !text.contains('\n'), "one sentence: {text}");
    }
    assert_eq!(
        error(b"{\"model\":\"a\",\"prompt\":\"\xff\"}").to_string(),
        "the body is not UTF-8 from byte 23 on: encode it as UTF-8"
    );
}

#[test]
fn the_deepest_body_allowed_is_accepted() {
    let body = format!(r#"{{"model":"a","prompt":"x","d":{}{}}}"#, "[".repeat(99), "]".repeat(99));
    let job = JobBody::parse(body.as_bytes()).unwrap();
    serde_json::from_str::<serde_json::Value>(&job.payload).unwrap();
}

/// Any JSON, a few levels deep, with awkward strings and numbers.
fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|b| b.to_string()),
        any::<f64>().prop_filter("JSON has no infinities", |n| n.is_finite()).prop_map(|n| format!("{n:e}")),
        "-?[1-9][0-9]{0,40}",
        any::<String>().prop_map(|s| serde_json::Value::from(s).to_string()),
        "\"(\\\\u[dD][89abAB][0-9a-f]{2}|\\\\u0000|[a-z ])*\"",
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[ {} ]", items.join(" , "))),
            prop::collection::vec((any::<String>(), inner), 0..4).prop_map(|members| {
                let members: Vec<_> = members
                    .iter()
                    .map(|(k, v)| format!("{} : {v}", serde_json::Value::from(k.as_str())))
                    .collect();
                format!("{{{}}}", members.join(","))
            }),
        ]
    })
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
        _ = JobBody::parse(&body);
    }

    #[test]
    fn what_is_not_ours_survives_byte_for_byte(
        extras in prop::collection::btree_map("[a-z]{1,3}[0-9]", json(), 0..6),
        own in json(),
    ) {
        let mut body = String::from(r#"{"model":"m","priority":"#);
        body.push_str(&own);
        for (key, value) in &extras {
            body.push_str(&format!(",\"{key}\":{value}"));
        }
        body.push_str(r#","keep_alive":-1,"prompt":"x"}"#);
        let job = JobBody::parse(body.as_bytes()).unwrap();
        let mut expected = String::from(r#"{"model":"m""#);
        for (key, value) in &extras {
            expected.push_str(&format!(",\"{key}\":{value}"));
        }
        expected.push_str(r#","prompt":"x","stream":true}"#);
        prop_assert_eq!(&job.payload, &expected);
        prop_assert_eq!(job.own("priority").unwrap().get(), own.as_str());
        // A stored payload can be parsed again, and parsing does not change it.
        prop_assert_eq!(JobBody::parse(job.payload.as_bytes()).unwrap().payload, expected);
    }
}
