use axum::http::StatusCode;

use super::*;

fn now() -> DateTime<Utc> {
    "2026-11-22T12:00:00Z".parse().unwrap()
}

fn parse(own: &str) -> Result<ParsedJob, StatusCode> {
    let body = format!(r#"{{"model":"a","prompt":"x"{own}}}"#);
    let body = JobBody::parse(body.as_bytes()).map_err(|_| StatusCode::BAD_REQUEST)?;
    ParsedJob::of(body, now(), TimeDelta::days(7)).map_err(|refusal| refusal.status())
}

#[test]
fn a_job_needs_nothing_of_ours() {
    let job = parse("").unwrap();
    assert_eq!((job.priority, job.max_attempts, job.metadata), (0, None, None));
    assert!(job.receiver.is_none());
    assert_eq!(job.times, Times { run_at: None, expires_at: now() + TimeDelta::days(7) });
    let nulls = parse(
        r#","priority":null,"max_attempts":null,"metadata":null,"run_at":null,"expires_at":null,"state_webhook_url":null,"webhook_events":null"#,
    );
    assert_eq!(nulls.unwrap().times.run_at, None);
}

#[test]
fn every_field_of_ours_is_read() {
    let job = parse(
        r#","priority":-100,"max_attempts":20,"metadata":{ "a" : "\u0000" },"run_at":"2026-11-23T13:00:00+01:00",
        "expires_at":"2026-12-23T12:00:00Z","state_webhook_url":"https://hooks.example/x","webhook_events":["done","failed","done"]"#,
    )
    .unwrap();
    assert_eq!((job.priority, job.max_attempts), (-100, Some(20)));
    assert_eq!(job.metadata.as_deref(), Some(r#"{ "a" : "\u0000" }"#));
    assert_eq!(job.times.run_at, Some("2026-11-23T12:00:00Z".parse().unwrap()));
    assert_eq!(job.times.expires_at, "2026-12-23T12:00:00Z".parse::<DateTime<Utc>>().unwrap());
    let receiver = job.receiver.unwrap();
    assert_eq!(receiver.url.as_str(), "https://hooks.example/x");
    assert_eq!(receiver.events, Some(vec![JobState::Done, JobState::Failed]));
}

#[test]
fn a_time_without_an_end_gets_one_within_bounds() {
    let job = parse(r#","run_at":"2026-12-01T00:00:00Z""#).unwrap();
    assert_eq!(job.times.expires_at, "2026-12-08T00:00:00Z".parse::<DateTime<Utc>>().unwrap());
    let past = parse(r#","run_at":"2020-01-01T00:00:00Z""#).unwrap();
    assert_eq!(past.times.expires_at, now() + TimeDelta::days(7));
    assert_eq!(Times::from_now(now(), TimeDelta::days(366)).expires_at, now() + MAX_AHEAD);
}

#[test]
fn values_out_of_range_and_of_a_wrong_type_are_refused() {
    for own in [
        r#""priority":101"#,
        r#""priority":-101"#,
        r#""priority":1.5"#,
        r#""priority":"1""#,
        r#""priority":1e400"#,
        r#""priority":99999999999999999999"#,
        r#""max_attempts":0"#,
        r#""max_attempts":21"#,
        r#""max_attempts":true"#,
        r#""metadata":[]"#,
        r#""metadata":"x""#,
        r#""run_at":"tomorrow""#,
        r#""run_at":1795000000"#,
        r#""run_at":"2026-11-23""#,
        r#""run_at":"2026-12-22T12:00:01Z""#,
        r#""run_at":"99999-01-01T00:00:00Z""#,
        r#""expires_at":"2026-11-22T12:00:00Z""#,
        r#""expires_at":"2026-11-22T11:00:00Z""#,
        r#""expires_at":"2026-12-22T12:00:01Z""#,
        r#""run_at":"2026-11-24T00:00:00Z","expires_at":"2026-11-23T00:00:00Z""#,
        r#""state_webhook_url":5"#,
        r#""webhook_events":["done"]"#,
        r#""state_webhook_url":"https://a.example","webhook_events":[]"#,
        r#""state_webhook_url":"https://a.example","webhook_events":"done""#,
        r#""state_webhook_url":"https://a.example","webhook_events":["finished"]"#,
        r#""state_webhook_url":"https://a.example","webhook_events":["Done"]"#,
        r#""state_webhook_url":"https://a.example","webhook_events":[1]"#,
        r#""Priority":1"#,
        r#""priority":1,"priority":1"#,
    ] {
        assert_eq!(parse(&format!(",{own}")).unwrap_err(), StatusCode::BAD_REQUEST, "{own}");
    }
    let large = format!(r#","metadata":{{"a":"{}"}}"#, "x".repeat(MAX_METADATA));
    assert_eq!(parse(&large).unwrap_err(), StatusCode::BAD_REQUEST);
}

#[test]
fn urls_that_cannot_be_called_are_unprocessable() {
    for url in ["", "hooks.example", "ftp://a.example", "https://user@a.example", "http://a.example:0/"] {
        let own = format!(r#","state_webhook_url":"{url}""#);
        assert_eq!(parse(&own).unwrap_err(), StatusCode::UNPROCESSABLE_ENTITY, "{url}");
    }
}

fn key(headers: &[&[u8]], own: &str) -> Result<Option<String>, StatusCode> {
    let mut given = HeaderMap::new();
    for key in headers {
        given.append("idempotency-key", axum::http::HeaderValue::from_bytes(key).unwrap());
    }
    let bytes = format!(r#"{{"model":"a","prompt":"x"{own}}}"#);
    let body = JobBody::parse(bytes.as_bytes()).unwrap();
    let key = idempotency_key(&given, body.own("idempotency_key"), bytes.as_bytes());
    key.map(|key| key.map(|key| key.key)).map_err(|refusal| refusal.status())
}

#[test]
fn a_key_is_short_printable_and_alone() {
    let key = |keys| key(keys, "");
    assert_eq!(key(&[]), Ok(None));
    assert_eq!(key(&[b"order 7"]), Ok(Some("order 7".to_owned())));
    assert_eq!(key(&[&[b'x'; 255]]).map(|key| key.is_some()), Ok(true));
    for keys in [&[b"".as_slice()][..], &[&[b'x'; 256]], &[b"a", b"b"], &["é".as_bytes()]] {
        assert_eq!(key(keys), Err(StatusCode::BAD_REQUEST));
    }
}

#[test]
fn a_job_may_carry_its_key_itself_and_a_header_must_not_contradict_it() {
    let own = r#","idempotency_key":"order 7""#;
    assert_eq!(key(&[], own), Ok(Some("order 7".to_owned())));
    assert_eq!(key(&[b"order 7"], own), Ok(Some("order 7".to_owned())));
    assert_eq!(key(&[b"order 8"], own), Err(StatusCode::BAD_REQUEST));
    assert_eq!(key(&[], r#","idempotency_key":null"#), Ok(None));
    for value in ["7", "\"\"", "\"\\u0000\"", "\"é\"", "[\"a\"]", &format!("\"{}\"", "x".repeat(256))] {
        let own = format!(r#","idempotency_key":{value}"#);
        assert_eq!(key(&[], &own), Err(StatusCode::BAD_REQUEST), "{value}");
    }
}
