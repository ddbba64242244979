//! Tests that a refusal takes the form of its path's surface, whoever made it, and that every answer has an id.

use foreman_store::Seal;
use foreman_tests::{Api, Db, http};
use reqwest::{Method, Response};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn start(settings: &[(&str, &str)]) -> (Db, Api) {
    let db = Db::fresh().await;
    let api = Api::start(&db, settings).await;
    (db, api)
}

async fn ask(api: &Api, method: Method, path: &str, headers: &[(&str, &str)]) -> Response {
    let request = http().request(method, format!("{}{path}", api.url));
    headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)).send().await.unwrap()
}

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

async fn body(response: Response) -> Value {
    serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
}

/// Checks that a refusal has the form of the surface and of this status, and returns its sentence.
async fn sentence(response: Response, path: &str, status: u16) -> String {
    assert_eq!(response.status(), status, "{path}");
    let id = header(&response, "x-request-id").to_owned();
    assert!(id.starts_with("req_"), "{path}: {id}");
    if path.starts_with("/v1/messages") {
        assert_eq!(header(&response, "request-id"), id);
        let body = body(response).await;
        assert_eq!((&body["type"], &body["request_id"]), (&json!("error"), &json!(id)));
        assert!(body["error"]["type"].is_string(), "{body}");
        return body["error"]["message"].as_str().unwrap().to_owned();
    }
    let body = body(response).await;
    if path.starts_with("/v1/") {
        let mut keys: Vec<_> = body["error"].as_object().unwrap().keys().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(keys, ["code", "message", "param", "type"], "{path}");
        return body["error"]["message"].as_str().unwrap().to_owned();
    }
    if path.starts_with("/api/") {
        assert_eq!(body.as_object().unwrap().len(), 1, "{body}");
    }
    body["error"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_missing_key_is_told_in_the_form_of_the_path() {
    let (_db, api) = start(&[("FOREMAN_AUTH", "required")]).await;
    for (method, path) in [
        (Method::GET, "/jobs"),
        (Method::POST, "/api/pull"),
        (Method::POST, "/v1/images/generations"),
        (Method::POST, "/v1/messages/count_tokens"),
    ] {
        let answer = ask(&api, method, path, &[]).await;
        assert_eq!(header(&answer, "www-authenticate"), "Bearer");
        assert!(sentence(answer, path, 401).await.starts_with("a key is needed; "), "{path}");
    }
}

#[tokio::test]
async fn a_key_is_good_in_each_of_its_three_forms() {
    let (db, api) = start(&[("FOREMAN_AUTH", "required")]).await;
    let key = db.store.create_client(&Seal::new(&[7; 32]), "team", false).await.unwrap().key;
    for name in ["authorization", "x-api-key"] {
        let value = if name == "x-api-key" { key.clone() } else { format!("Bearer {key}") };
        assert_eq!(ask(&api, Method::GET, "/jobs", &[(name, &value)]).await.status(), 200, "{name}");
    }
    let basic =
        http().get(format!("{}/jobs", api.url)).basic_auth("anybody", Some(&key)).send().await.unwrap();
    assert_eq!(basic.status(), 200);
    let both = [("authorization", "Bearer fk_other"), ("x-api-key", key.as_str())];
    let refused = sentence(ask(&api, Method::GET, "/jobs", &both).await, "/jobs", 401).await;
    assert!(refused.contains("send one of them"), "{refused}");
}

#[tokio::test]
async fn with_authentication_off_no_key_is_wrong() {
    let (_db, api) = start(&[]).await;
    for headers in [
        &[("authorization", "Bearer ")][..],
        &[("authorization", "Bearer ollama")],
        &[("authorization", "Basic !")],
        &[("x-api-key", "a"), ("authorization", "Bearer b")],
    ] {
        assert_eq!(ask(&api, Method::GET, "/jobs", headers).await.status(), 200, "{headers:?}");
    }
}

#[tokio::test]
async fn what_ollama_has_and_foreman_does_not_offer_is_refused_with_the_reason() {
    let (_db, api) = start(&[]).await;
    for (method, path, reason) in [
        (Method::POST, "/api/pull", "ask the operator"),
        (Method::POST, "/api/push", "ask the operator"),
        (Method::POST, "/api/create", "ask the operator"),
        (Method::POST, "/api/copy", "ask the operator"),
        (Method::DELETE, "/api/delete", "ask the operator"),
        (Method::POST, "/api/blobs/sha256:abc", "ask the operator"),
        (Method::POST, "/api/me", "no account"),
        (Method::GET, "/api/status", "no account"),
        (Method::POST, "/api/signout", "no account"),
        (Method::POST, "/api/experimental/web_search", "search the web"),
        (Method::POST, "/v1/audio/transcriptions", "past the queue"),
        (Method::POST, "/v1/images/edits", "past the queue"),
    ] {
        let refused = sentence(ask(&api, method, path, &[]).await, path, 403).await;
        assert!(refused.contains(reason), "{path}: {refused}");
    }
    assert_eq!(ask(&api, Method::HEAD, "/api/blobs/sha256:abc", &[]).await.status(), 403);
    let path = "/v1/messages/count_tokens";
    let refused = sentence(ask(&api, Method::POST, path, &[]).await, path, 404).await;
    assert!(refused.contains("cannot count"), "{refused}");
}

#[tokio::test]
async fn what_ollama_does_not_have_is_not_found_as_there() {
    let (_db, api) = start(&[]).await;
    for path in ["/api/nothing", "/v1/nothing", "/v1/messages/nothing"] {
        let answer = ask(&api, Method::GET, path, &[]).await;
        assert_eq!((answer.status().as_u16(), header(&answer, "content-type")), (404, "text/plain"));
        assert_eq!(answer.text().await.unwrap(), "404 page not found", "{path}");
    }
    let answer = ask(&api, Method::GET, "/api/pull", &[]).await;
    assert_eq!((answer.status().as_u16(), header(&answer, "allow")), (405, "POST"));
    assert_eq!(header(&answer, "content-type"), "text/plain");
    assert_eq!(answer.text().await.unwrap(), "405 method not allowed");
    assert!(sentence(ask(&api, Method::GET, "/nothing", &[]).await, "/nothing", 404).await.contains("/jobs"));
}

#[tokio::test]
async fn foreign_pages_and_ambiguous_heads_are_refused_in_the_form_of_the_path() {
    let (_db, api) = start(&[]).await;
    for path in ["/jobs", "/api/pull", "/v1/audio/transcriptions", "/v1/messages/count_tokens"] {
        let answer = ask(&api, Method::POST, path, &[("origin", "https://evil.example")]).await;
        assert!(sentence(answer, path, 403).await.contains("FOREMAN_ORIGINS"), "{path}");
    }
    let mut stream = TcpStream::connect(api.url.strip_prefix("http://").unwrap()).await.unwrap();
    stream.write_all(b"POST /v1/messages HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 400")
            && answer.contains(r#"{"type":"error","error":{"type":"invalid_request_error""#),
        "{answer}"
    );
}

#[tokio::test]
async fn every_answer_has_an_id_of_its_own() {
    let (_db, api) = start(&[]).await;
    let mut ids = Vec::new();
    for (method, path) in [
        (Method::GET, "/"),
        (Method::HEAD, "/"),
        (Method::GET, "/jobs"),
        (Method::GET, "/nothing"),
        (Method::GET, "/api/nothing"),
    ] {
        let answer = ask(&api, method, path, &[("x-request-id", "of the client")]).await;
        ids.push(header(&answer, "x-request-id").to_owned());
    }
    assert!(ids.iter().all(|id| id.starts_with("req_") && id.len() == 30), "{ids:?}");
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 5);
}
