//! Tests that each kind of bad request gets its status and one clear sentence, and never a 500.

use foreman_tests::Api;
use reqwest::{Body, Method};

use super::{JOB, ask, get, json, post, problem, start, submit};

/// A job with these members beside the model and a prompt.
fn with(members: &str) -> Vec<u8> {
    format!(r#"{{"model":"tiny-a","prompt":"x",{members}}}"#).into_bytes()
}

#[tokio::test]
async fn bodies_that_are_no_job_are_refused_each_with_its_code() {
    let (_db, api) = start(&[]).await;
    let deep = format!(r#"{{"model":"tiny-a","prompt":"x","x":{}{}}}"#, "[".repeat(5_000), "]".repeat(5_000));
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"".to_vec(), "body_missing"),
        (b" \n".to_vec(), "body_missing"),
        (b"hello".to_vec(), "not_json"),
        (b"{".to_vec(), "not_json"),
        (b"{\"model\":\"tiny-a\",}".to_vec(), "not_json"),
        (b"{\"model\":\"tiny-a\",\"prompt\":\"\n\"}".to_vec(), "not_json"),
        (b"{\"model\":\"tiny-a\",\"prompt\":\"\0\"}".to_vec(), "not_json"),
        (b"null".to_vec(), "not_an_object"),
        (b"[]".to_vec(), "not_an_object"),
        (b"\"model\"".to_vec(), "not_an_object"),
        (b"\xef\xbb\xbf{}".to_vec(), "not_utf8"),
        (b"{\"model\":\"tiny-a\",\"prompt\":\"\xff\"}".to_vec(), "not_utf8"),
        (b"{\"model\":\"tiny-a\",\"prompt\":\"\xed\xa0\x80\"}".to_vec(), "not_utf8"),
        (format!("{JOB} {JOB}").into_bytes(), "trailing_data"),
        (format!("{JOB}]").into_bytes(), "trailing_data"),
        (deep.into_bytes(), "too_deep"),
        (b"{}".to_vec(), "model_missing"),
        (br#"{"prompt":"x"}"#.to_vec(), "model_missing"),
        (br#"{"model":"","prompt":"x"}"#.to_vec(), "invalid_model"),
        (br#"{"model":null,"prompt":"x"}"#.to_vec(), "invalid_model"),
        (br#"{"model":7,"prompt":"x"}"#.to_vec(), "invalid_model"),
        (br#"{"model":["tiny-a"],"prompt":"x"}"#.to_vec(), "invalid_model"),
        (br#"{"model":"tiny-a\u0000","prompt":"x"}"#.to_vec(), "invalid_model"),
        (br#"{"model":"tiny a","prompt":"x"}"#.to_vec(), "invalid_model"),
        (br#"{"model":"../tiny-a","prompt":"x"}"#.to_vec(), "invalid_model"),
        (format!(r#"{{"model":"{}","prompt":"x"}}"#, "x".repeat(5_000)).into_bytes(), "invalid_model"),
        (br#"{"model":"tiny-embed","prompt":"x"}"#.to_vec(), "model_only_embeds"),
        (br#"{"model":"tiny-a"}"#.to_vec(), "nothing_to_run"),
        (br#"{"model":"tiny-a","messages":null}"#.to_vec(), "nothing_to_run"),
        (br#"{"model":"tiny-a","messages":[]}"#.to_vec(), "invalid_messages"),
        (br#"{"model":"tiny-a","messages":{}}"#.to_vec(), "invalid_messages"),
        (br#"{"model":"tiny-a","prompt":""}"#.to_vec(), "invalid_prompt"),
        (br#"{"model":"tiny-a","prompt":5}"#.to_vec(), "invalid_prompt"),
        (with(r#""messages":[{}]"#), "two_things_to_run"),
        (with(r#""model":"tiny-b""#), "repeated_key"),
        (with(r#""x":1,"x":1"#), "repeated_key"),
        (br#"{"Model":"tiny-a","prompt":"x"}"#.to_vec(), "key_in_other_case"),
        (with(r#""MODEL":"tiny-b""#), "key_in_other_case"),
        (with(r#""Priority":1"#), "key_in_other_case"),
        (with(r#""State_Webhook_Url":"http://127.0.0.1/""#), "key_in_other_case"),
        (with(r#""stream":"yes""#), "invalid_stream"),
        (with(r#""options":[]"#), "invalid_options"),
        (with(r#""options":{"num_ctx":"big"}"#), "invalid_options"),
        (with(r#""priority":101"#), "invalid_priority"),
        (with(r#""priority":-101"#), "invalid_priority"),
        (with(r#""priority":0.5"#), "invalid_priority"),
        (with(r#""priority":"high""#), "invalid_priority"),
        (with(r#""priority":1e999"#), "invalid_priority"),
        (with(r#""max_attempts":0"#), "invalid_max_attempts"),
        (with(r#""max_attempts":21"#), "invalid_max_attempts"),
        (with(r#""metadata":[]"#), "invalid_metadata"),
        (with(&format!(r#""metadata":{{"a":"{}"}}"#, "x".repeat(4_096))), "invalid_metadata"),
        (with(r#""run_at":"soon""#), "invalid_run_at"),
        (with(r#""run_at":1795000000"#), "invalid_run_at"),
        (with(r#""run_at":"2999-01-01T00:00:00Z""#), "invalid_run_at"),
        (with(r#""expires_at":"2020-01-01T00:00:00Z""#), "invalid_expires_at"),
        (with(r#""expires_at":"2999-01-01T00:00:00Z""#), "invalid_expires_at"),
        (with(r#""webhook_events":["done"]"#), "webhook_url_missing"),
        (with(r#""state_webhook_url":5"#), "invalid_webhook_url"),
        (with(r#""state_webhook_url":"http://127.0.0.1/","webhook_events":[]"#), "invalid_webhook_events"),
        (
            with(r#""state_webhook_url":"http://127.0.0.1/","webhook_events":["finished"]"#),
            "invalid_webhook_events",
        ),
        (
            with(r#""state_webhook_url":"http://127.0.0.1/","webhook_events":"done""#),
            "invalid_webhook_events",
        ),
    ];
    for (body, code) in cases {
        let shown = String::from_utf8_lossy(&body[..body.len().min(120)]).into_owned();
        let answer = post(&api, "/jobs", body).await;
        assert_eq!(problem(answer, 400, &shown).await, code, "{shown}");
    }
    assert_eq!(json(get(&api, "/jobs").await).await["data"], serde_json::json!([]), "nothing was accepted");
}

#[tokio::test]
async fn a_key_that_is_given_twice_is_refused_in_small_bodies_too() {
    let (_db, api) = start(&[]).await;
    let twice =
        r#"{"name":"x","url":"https://a.example","url":"https://b.example","event_types":["job.done"]}"#;
    assert_eq!(problem(post(&api, "/webhooks", twice).await, 400, "ours").await, "repeated_key");
    let refused = json(post(&api, "/v1/webhook_endpoints", twice).await).await;
    assert!(
        refused["error"]["message"].as_str().unwrap().contains("`url` is given more than once"),
        "{refused}"
    );
}

#[tokio::test]
async fn what_an_operator_asks_without_fields_refuses_every_field_and_takes_an_empty_body() {
    let (_db, api) = start(&[]).await;
    for path in ["/hosts/gpu/drain", "/hosts/gpu/resume", "/models/tiny-a/unload"] {
        for (body, code) in [(r#"{"until":"noon"}"#, "unknown_field"), ("7", "invalid_json")] {
            assert_eq!(problem(post(&api, path, body).await, 400, path).await, code);
        }
        assert_eq!(json(get(&api, "/hosts").await).await["data"][0]["drained_at"], serde_json::Value::Null);
    }
    for (path, status) in
        [("/hosts/gpu/drain", 200), ("/hosts/gpu/resume", 200), ("/models/tiny-a/unload", 202)]
    {
        for body in ["", "{}"] {
            assert_eq!(post(&api, path, body).await.status(), status, "{path} {body}");
        }
    }
}

#[tokio::test]
async fn odd_but_correct_jobs_are_accepted() {
    let (_db, api) = start(&[]).await;
    for body in [
        with(r#""x":"\u0000""#),
        with(r#""metadata":{"a":"\u0000"}"#),
        with(r#""priority":null,"metadata":null,"state_webhook_url":null"#),
        with(r#""priority":-100,"max_attempts":20"#),
        with(r#""run_at":"2020-01-01T00:00:00+01:00""#),
        with(r#""unknown":{"deep":[[[[]]]]}"#),
        br#"{"model":"REGISTRY.ollama.ai/library/Tiny-A:latest","prompt":"x"}"#.to_vec(),
        format!("\t{JOB}\r\n").into_bytes(),
        "{\"model\":\"tiny-a\",\"prompt\":\"\u{10ffff}\\ud800\"}".as_bytes().to_vec(),
    ] {
        let shown = String::from_utf8_lossy(&body).into_owned();
        let answer = ask(&api, Method::POST, "/jobs").header("content-type", "text/csv").body(body);
        assert_eq!(answer.send().await.unwrap().status(), 202, "{shown}");
    }
}

#[tokio::test]
async fn a_model_that_no_host_has_is_not_there() {
    let (_db, api) = start(&[]).await;
    let answer = post(&api, "/jobs", r#"{"model":"llama9","prompt":"x"}"#).await;
    assert_eq!(answer.status(), 404);
    let body = json(answer).await;
    assert_eq!(body["code"], "unknown_model");
    assert!(body["error"].as_str().unwrap().contains("`ollama pull llama9:latest`"), "{body}");
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_whether_its_length_is_announced_or_not() {
    let (_db, api) = start(&[("FOREMAN_MAX_BODY", "64KiB")]).await;
    let large = format!(r#"{{"model":"tiny-a","prompt":"{}"}}"#, "x".repeat(64 << 10));
    let announced = post(&api, "/jobs", large.clone()).await;
    assert_eq!(problem(announced, 413, "announced").await, "body_too_large");
    let chunks = large
        .into_bytes()
        .chunks(1_000)
        .map(|chunk| Ok::<_, std::io::Error>(chunk.to_vec()))
        .collect::<Vec<_>>();
    let streamed = post(&api, "/jobs", Body::wrap_stream(futures_util::stream::iter(chunks))).await;
    assert_eq!(problem(streamed, 413, "streamed").await, "body_too_large");
    submit(&api, JOB).await;
}

#[tokio::test]
async fn where_https_is_required_other_receivers_are_refused_with_the_mend() {
    let (_db, api) = start(&[("FOREMAN_WEBHOOK_REQUIRE_HTTPS", "yes")]).await;
    let job = |url: &str| with(&format!(r#""state_webhook_url":"{url}""#));
    let refused = post(&api, "/jobs", job("http://8.8.8.8/")).await;
    assert_eq!(problem(refused, 422, "http").await, "webhook_url_not_https");
    assert_eq!(post(&api, "/jobs", job("https://8.8.8.8/")).await.status(), 202);
}

#[tokio::test]
async fn receivers_that_may_not_be_called_are_refused_in_all_their_forms() {
    let (_db, api) = start(&[("FOREMAN_WEBHOOK_ALLOW", "")]).await;
    for (url, code) in [
        ("http://127.0.0.1/", "webhook_address_refused"),
        ("http://localhost:9/", "webhook_address_refused"),
        ("http://LocalHost./", "webhook_address_refused"),
        ("http://a.localhost/", "webhook_address_refused"),
        ("http://127.1/", "webhook_address_refused"),
        ("http://2130706433/", "webhook_address_refused"),
        ("http://0x7f000001/", "webhook_address_refused"),
        ("http://0177.0.0.1/", "webhook_address_refused"),
        ("http://%31%32%37.0.0.1/", "webhook_address_refused"),
        ("http://127。0。0。1/", "webhook_address_refused"),
        ("http://0/", "webhook_address_refused"),
        ("http://10.1.2.3/", "webhook_address_refused"),
        ("http://172.16.0.1/", "webhook_address_refused"),
        ("http://192.168.0.1/", "webhook_address_refused"),
        ("http://169.254.169.254/latest/meta-data", "webhook_address_refused"),
        ("http://168.63.129.16/", "webhook_address_refused"),
        ("http://100.64.0.1/", "webhook_address_refused"),
        ("http://224.0.0.1/", "webhook_address_refused"),
        ("http://255.255.255.255/", "webhook_address_refused"),
        ("http://[::1]/", "webhook_address_refused"),
        ("http://[::]/", "webhook_address_refused"),
        ("http://[::ffff:127.0.0.1]/", "webhook_address_refused"),
        ("http://[::127.0.0.1]/", "webhook_address_refused"),
        ("http://[64:ff9b::7f00:1]/", "webhook_address_refused"),
        ("http://[2002:7f00:1::]/", "webhook_address_refused"),
        ("http://[fe80::1]/", "webhook_address_refused"),
        ("http://[fd00::1]/", "webhook_address_refused"),
        ("http://[fec0::1]/", "webhook_address_refused"),
        ("http://user:secret@hooks.example/", "webhook_url_user_info"),
        ("http://@hooks.example/", "webhook_url_user_info"),
        ("http://hooks.example:0/", "webhook_url_invalid"),
        ("http://hooks.example:70000/", "webhook_url_invalid"),
        ("ftp://hooks.example/", "webhook_url_invalid"),
        ("file:///etc/passwd", "webhook_url_invalid"),
        ("javascript:alert(1)", "webhook_url_invalid"),
        ("//hooks.example/", "webhook_url_invalid"),
        ("hooks.example", "webhook_url_invalid"),
        ("http:hooks.example", "webhook_url_invalid"),
        ("http://", "webhook_url_invalid"),
        ("http:///path", "webhook_url_invalid"),
        ("", "webhook_url_invalid"),
        ("http://[::1/", "webhook_url_invalid"),
        ("http://hooks.example/\\u0000", "webhook_url_invalid"),
        ("http://hooks.example/\\r\\nX: y", "webhook_url_invalid"),
    ] {
        let answer = post(&api, "/jobs", with(&format!(r#""state_webhook_url":"{url}""#))).await;
        assert_eq!(problem(answer, 422, url).await, code, "{url}");
    }
    let long = format!("https://hooks.example/{}", "x".repeat(2_048));
    let answer = post(&api, "/jobs", with(&format!(r#""state_webhook_url":"{long}""#))).await;
    assert_eq!(problem(answer, 422, "long").await, "webhook_url_too_long");
}

#[tokio::test]
async fn ids_that_do_not_exist_are_not_found() {
    let (_db, api) = start(&[]).await;
    let nobody = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
    let small = nobody.to_lowercase();
    for id in
        [nobody, &small, "1", "x", "%00", "%ff", "..%2f..", "8ZZZZZZZZZZZZZZZZZZZZZZZZZ", &"0".repeat(3_000)]
    {
        for (method, path, code) in [
            (Method::GET, format!("/jobs/{id}"), "no_such_job"),
            (Method::GET, format!("/jobs/{id}?wait=5"), "no_such_job"),
            (Method::GET, format!("/jobs/{id}/events"), "no_such_job"),
            (Method::GET, format!("/jobs/{id}/deliveries"), "no_such_job"),
            (Method::POST, format!("/jobs/{id}/cancel"), "no_such_job"),
            (Method::POST, format!("/jobs/{id}/retry"), "no_such_job"),
            (Method::POST, format!("/deliveries/{id}/redeliver"), "no_such_delivery"),
        ] {
            let answer = ask(&api, method, &path).send().await.unwrap();
            assert_eq!(problem(answer, 404, &path).await, code, "{path}");
        }
    }
    let job = submit(&api, JOB).await;
    for name in ["completion", "..%2f..", "%00", &"x".repeat(3_000)] {
        let path = format!("/jobs/{job}/artifacts/{name}");
        assert_eq!(problem(get(&api, &path).await, 404, &path).await, "no_such_artifact");
    }
}

#[tokio::test]
async fn parameters_are_checked_and_unknown_ones_refused() {
    let (_db, api) = start(&[]).await;
    let job = submit(&api, JOB).await;
    for query in [
        "limit=0",
        "limit=501",
        "limit=-1",
        "limit=x",
        "limit=",
        "limit=1e1",
        "limit=99999999999999999999",
        "state=",
        "state=Queued",
        "state=finished",
        "state=queued,done",
        "after=1",
        "after=",
        "after=%00",
        "model=",
        "model=a%20b",
        "model=%00",
        "model=%ff",
    ] {
        let path = format!("/jobs?{query}");
        assert_eq!(problem(get(&api, &path).await, 400, &path).await, "invalid_parameter");
    }
    for query in [
        "wait=x",
        "wait=-1",
        "wait=1.5",
        "wait=",
        "after_seq=-1",
        "after_seq=x",
        "wait=1&after_seq=99999999999",
    ] {
        let path = format!("/jobs/{job}?{query}");
        assert_eq!(problem(get(&api, &path).await, 400, &path).await, "invalid_parameter");
    }
    for path in [
        "/jobs?limit=500&state=queued&model=TINY-A:Latest".to_owned(),
        "/jobs?&&limit=1".to_owned(),
        format!("/jobs/{job}?wait=99999999&after_seq=0"),
    ] {
        assert_eq!(get(&api, &path).await.status(), 200, "{path}");
    }
}

#[tokio::test]
async fn our_own_routes_refuse_parameters_that_they_do_not_know_and_those_of_others_ignore_them() {
    let (_db, api) = start(&[]).await;
    for path in [
        "/jobs?limit=1&x",
        "/jobs?%zz=%",
        "/jobs?state=queued&state=done",
        "/jobs/x/events?after=1",
        "/webhooks/x/deliveries?state=delivered",
        "/usage?last=7d",
        "/queue?model=tiny-a",
    ] {
        assert_eq!(problem(get(&api, path).await, 400, path).await, "invalid_parameter");
    }
    for path in ["/?x", "/docs?x", "/openapi.json?x", "/v1/webhook_endpoints?x"] {
        assert_eq!(get(&api, path).await.status(), 200, "{path}");
    }
}

#[tokio::test]
async fn routes_and_methods_that_are_not_there_are_problems_too() {
    let (_db, api) = start(&[]).await;
    for path in ["/nothing", "/jobs/", "//jobs", "/jobs/x/y", "/JOBS", "/metrics", "/%00"] {
        assert_eq!(problem(get(&api, path).await, 404, path).await, "no_such_route");
    }
    for (method, path, allowed) in [
        (Method::PUT, "/jobs", "GET,HEAD,POST"),
        (Method::DELETE, "/jobs/x", "GET,HEAD"),
        (Method::GET, "/jobs/x/cancel", "POST"),
        (Method::POST, "/", "GET,HEAD"),
    ] {
        let answer = ask(&api, method, path).send().await.unwrap();
        assert_eq!(super::header(&answer, "allow"), allowed, "{path}");
        assert_eq!(problem(answer, 405, path).await, "method_not_allowed");
    }
}

#[tokio::test]
async fn after_all_bad_requests_the_api_still_works() {
    let (_db, api): (_, Api) = start(&[]).await;
    let root = get(&api, "/").await;
    assert_eq!(root.text().await.unwrap(), "Ollama is running");
    let head = ask(&api, Method::HEAD, "/").send().await.unwrap();
    assert_eq!((head.status().as_u16(), head.text().await.unwrap().as_str()), (200, ""));
    for raw in [
        "\r\n\r\n",
        "GET\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        "POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ] {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let address = api.url.strip_prefix("http://").unwrap();
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(raw.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(!answer.starts_with("HTTP/1.1 5"), "{raw:?}: {answer}");
    }
    submit(&api, JOB).await;
}
