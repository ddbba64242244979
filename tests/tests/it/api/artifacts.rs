//! Tests how the results of jobs are sent, whole or in ranges.

use foreman_store::{Completion, Exit};
use foreman_tests::{Api, Db};
use reqwest::{Method, Response};

use super::{JOB, ask, header, problem, run, start, submit};

/// Makes a job whose completion has these bytes, and returns the path of this artifact.
async fn artifact(db: &Db, api: &Api, bytes: Vec<u8>) -> String {
    let job = submit(api, JOB).await;
    let completion = Completion {
        completion: bytes,
        content_type: "application/json".to_owned(),
        prompt_tokens: None,
        completion_tokens: None,
    };
    run(db, job, Exit::Done(completion)).await;
    format!("/jobs/{job}/artifacts/completion")
}

async fn with(api: &Api, method: Method, path: &str, headers: &[(&str, &str)]) -> Response {
    let request = ask(api, method, path);
    headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)).send().await.unwrap()
}

#[tokio::test]
async fn a_range_gets_its_part_and_anything_else_gets_the_whole() {
    let (db, api) = start(&[]).await;
    let path = artifact(&db, &api, b"0123456789".to_vec()).await;
    for (range, part, content_range) in [
        ("bytes=0-0", "0", "bytes 0-0/10"),
        ("bytes=2-4", "234", "bytes 2-4/10"),
        ("bytes=7-", "789", "bytes 7-9/10"),
        ("bytes=-3", "789", "bytes 7-9/10"),
        ("bytes=-99", "0123456789", "bytes 0-9/10"),
        ("bytes=8-99", "89", "bytes 8-9/10"),
    ] {
        let answer = with(&api, Method::GET, &path, &[("range", range)]).await;
        assert_eq!(answer.status(), 206, "{range}");
        assert_eq!(header(&answer, "content-range"), content_range);
        assert_eq!(header(&answer, "content-length"), part.len().to_string());
        assert!(!header(&answer, "etag").is_empty() && header(&answer, "accept-ranges") == "bytes");
        assert_eq!(answer.text().await.unwrap(), part, "{range}");
    }
    for range in ["bytes=4-2", "bytes=0-1,4-5", "lines=0-1", "bytes=x-", "bytes 0-1", ""] {
        let answer = with(&api, Method::GET, &path, &[("range", range)]).await;
        assert_eq!((answer.status().as_u16(), header(&answer, "content-range")), (200, ""), "{range}");
        assert_eq!(answer.text().await.unwrap(), "0123456789", "{range}");
    }
    for range in ["bytes=10-", "bytes=10-20", "bytes=-0", "bytes=99999999999999999999999-"] {
        let answer = with(&api, Method::GET, &path, &[("range", range)]).await;
        assert_eq!(header(&answer, "content-range"), "bytes */10");
        assert_eq!(problem(answer, 416, range).await, "range_not_satisfiable");
    }
}

#[tokio::test]
async fn conditions_are_judged_before_ranges() {
    let (db, api) = start(&[]).await;
    let path = artifact(&db, &api, b"0123456789".to_vec()).await;
    let whole = with(&api, Method::GET, &path, &[]).await;
    let tag = header(&whole, "etag").to_owned();
    assert_eq!((header(&whole, "accept-ranges"), header(&whole, "content-length")), ("bytes", "10"));
    let weak = format!("W/{tag}");
    let range = ("range", "bytes=1-2");
    for (headers, status) in [
        (&[("if-none-match", tag.as_str())][..], 304),
        (&[("if-none-match", weak.as_str()), range], 304),
        (&[("if-none-match", "*")], 304),
        (&[("if-none-match", "\"other\""), range], 206),
        (&[("if-range", tag.as_str()), range], 206),
        (&[("if-range", weak.as_str()), range], 200),
        (&[("if-range", "\"other\""), range], 200),
        (&[("if-range", "\"other\""), ("range", "bytes=99-")], 200),
        (&[("if-range", "Sun, 22 Nov 2026 12:00:00 GMT"), range], 200),
        (&[("if-match", tag.as_str()), range], 206),
        (&[("if-match", "*")], 200),
    ] {
        let answer = with(&api, Method::GET, &path, headers).await;
        assert_eq!(answer.status(), status, "{headers:?}");
        assert_eq!(header(&answer, "etag"), tag, "{headers:?}");
        let length = [(304, 0), (206, 2), (200, 10)].into_iter().find(|(of, _)| *of == status).unwrap().1;
        assert_eq!(answer.bytes().await.unwrap().len(), length, "{headers:?}");
    }
    let other = with(&api, Method::GET, &path, &[("if-match", "\"other\""), range]).await;
    assert_eq!(problem(other, 412, "another tag").await, "other_bytes");

    let head = with(&api, Method::HEAD, &path, &[range]).await;
    assert_eq!((head.status().as_u16(), header(&head, "content-length")), (200, "10"));
    assert_eq!((header(&head, "etag"), header(&head, "content-type")), (tag.as_str(), "application/json"));
    assert_eq!(head.bytes().await.unwrap().len(), 0);
    let known = with(&api, Method::HEAD, &path, &[("if-none-match", &tag)]).await;
    assert_eq!(known.status(), 304);
}

#[tokio::test]
async fn a_large_artifact_is_put_together_from_its_parts() {
    let (db, api) = start(&[]).await;
    // No two parts of it are equal, and Postgres cannot compress it.
    let bytes: Vec<u8> =
        (0..8_000_000_u64).map(|index| (index.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect();
    let path = artifact(&db, &api, bytes.clone()).await;
    let mut gathered = Vec::new();
    let mut tag = String::new();
    while gathered.len() < bytes.len() {
        let range = format!("bytes={}-{}", gathered.len(), gathered.len() + 999_999);
        let answer = with(
            &api,
            Method::GET,
            &path,
            &[("range", range.as_str()), ("if-range", tag.as_str())][..if tag.is_empty() { 1 } else { 2 }],
        )
        .await;
        assert_eq!(answer.status(), 206);
        tag = header(&answer, "etag").to_owned();
        gathered.extend_from_slice(&answer.bytes().await.unwrap());
    }
    assert!(gathered == bytes);
    let whole = with(&api, Method::GET, &path, &[]).await;
    assert!(whole.bytes().await.unwrap() == bytes);
}
