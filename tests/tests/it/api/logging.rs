//! Tests that the log of a request names its job, and shows nothing that a client sent.

use serde_json::{Value, json};

use super::{JOB, start, submit};

#[tokio::test]
async fn each_line_of_a_request_names_its_job_in_either_format() {
    let (_db, api) = start(&[("FOREMAN_LOG", "foreman_api=debug"), ("FOREMAN_LOG_FORMAT", "json")]).await;
    let job = submit(&api, JOB).await;
    api.get(&format!("/jobs/{job}?wait=0")).await;
    let log = api.process.log();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (method, route) in [("POST", "/jobs"), ("GET", "/jobs/{id}")] {
        let is_its = |line: &&Value| line["method"] == method && line["route"] == route;
        let line = lines.iter().find(is_its).unwrap_or_else(|| panic!("{method} {route} is not in\n{log}"));
        assert_eq!((&line["message"], &line["job.id"]), (&json!("answered"), &json!(job)), "{log}");
        assert!(line["request.id"].as_str().is_some_and(|id| id.starts_with("req_")), "{log}");
    }
    assert!(!log.contains("wait=0") && !log.contains("hello"), "{log}");

    let (_db, api) = start(&[("FOREMAN_LOG", "foreman_api=debug"), ("FOREMAN_LOG_FORMAT", "text")]).await;
    let job = submit(&api, JOB).await;
    let log = api.process.log();
    let span = format!(" method=\"POST\" route=\"/jobs\" job.id={job}}}");
    let is_its = |line: &str| line.contains("request{request.id=\"req_") && line.contains(&span);
    assert!(log.lines().any(|line| is_its(line) && line.contains("answered")), "{log}");
}
