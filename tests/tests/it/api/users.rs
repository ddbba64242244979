//! Tests that a client can say for which of its users it asks, on every route that takes jobs.

use foreman_tests::Api;
use reqwest::{Method, Response};
use serde_json::Value;

use super::{JOB, ask, json, problem, start};

/// Asks for a user, on a route that takes a job with messages. Nobody waits for the answer of a sync route.
async fn post_for(api: &Api, path: &str, user: &[u8]) -> Response {
    let request = ask(api, Method::POST, path).header("x-foreman-user", user);
    request.header("prefer", "respond-async").body(JOB).send().await.unwrap()
}

#[tokio::test]
async fn a_job_of_any_route_shows_its_user() {
    let (db, api) = start(&[]).await;
    for path in ["/jobs", "/jobs/batch", "/api/chat", "/v1/chat/completions", "/v1/messages"] {
        let answer = post_for(&api, path, "Zoë".as_bytes()).await;
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
        let id = json(answer).await["job_id"].as_str().unwrap().to_owned();
        assert_eq!(api.get(&format!("/jobs/{id}")).await["user"], "Zoë", "{path}");
        db.run("UPDATE job_ready SET user_name = 'told'").await;
    }
    let other = ask(&api, Method::POST, "/jobs").header("x-openwebui-user-id", "1b4e28ba-2fa1").body(JOB);
    assert_eq!(other.send().await.unwrap().status(), 202);
    super::submit(&api, JOB).await;
    let listed = api.get("/jobs?limit=3").await["data"].clone();
    let users: Vec<&Value> = listed.as_array().unwrap().iter().map(|job| &job["user"]).collect();
    assert_eq!(users, [&Value::Null, &"1b4e28ba-2fa1".into(), &"Zoë".into()]);
    let waiting = db.values::<String>("SELECT DISTINCT user_name FROM job_ready ORDER BY 1").await;
    assert_eq!(waiting, ["", "1b4e28ba-2fa1", "told"], "each was queued for its user");
}

#[tokio::test]
async fn a_user_that_cannot_be_shown_is_refused_before_anything_is_taken_in() {
    let (db, api) = start(&[]).await;
    let long = "x".repeat(129);
    for user in [long.as_bytes(), b"latin-1 \xe9", b"a\ttab"] {
        for path in ["/jobs", "/jobs/batch"] {
            assert_eq!(problem(post_for(&api, path, user).await, 400, path).await, "invalid_user");
        }
        for path in ["/api/chat", "/v1/chat/completions", "/v1/messages"] {
            let answer = post_for(&api, path, user).await;
            assert_eq!(answer.status(), 400, "{path}");
            let said = answer.text().await.unwrap();
            assert!(
                said.contains("`x-foreman-user` must name a user in at most 128 bytes"),
                "{path}: {said}"
            );
        }
    }
    assert_eq!(db.value::<i64>("SELECT count(*) FROM job").await, 0);
}
