//! Tests streams of a job's events.

use foreman_store::{Exit, JobId, Phase};
use foreman_tests::{Api, Db, eventually, reason, success};
use reqwest::{Method, Response};
use serde_json::{Value, json};

use super::{JOB, ask, claim, get, header, json as read, problem, run, start, submit};

/// A stream of events, read one by one.
struct Stream {
    response: Response,
    buffer: Vec<u8>,
}

impl Stream {
    async fn open(api: &Api, job: JobId, last: &str) -> Self {
        let request =
            ask(api, Method::GET, &format!("/jobs/{job}/events")).header("accept", "text/event-stream");
        let request = if last.is_empty() { request } else { request.header("last-event-id", last) };
        let response = request.send().await.unwrap();
        assert_eq!(
            (response.status().as_u16(), header(&response, "content-type")),
            (200, "text/event-stream")
        );
        assert_eq!(header(&response, "cache-control"), "no-store");
        Self { response, buffer: Vec::new() }
    }

    /// The id and the data of the next event, or `None` at the end.
    async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|bytes| bytes == b"\n\n") {
                let block: Vec<u8> = self.buffer.drain(..end + 2).collect();
                let block = String::from_utf8(block).unwrap();
                let field = |name: &str| {
                    let values: Vec<&str> =
                        block.lines().filter_map(|line| line.strip_prefix(name)).collect();
                    values.join("\n")
                };
                if block.starts_with("id: ") {
                    return Some((field("id: "), serde_json::from_str(&field("data: ")).unwrap()));
                }
                assert!(block == ":\n\n" || block == "retry: 1000\n\n", "{block:?}");
                continue;
            }
            self.buffer.extend_from_slice(&self.response.chunk().await.unwrap()?);
        }
    }

    async fn rest(mut self) -> Vec<(String, Value)> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

/// Empties the outbox, as the relay would.
async fn relay(db: &Db) {
    db.run(
        "WITH gone AS (DELETE FROM outbox RETURNING *)
         INSERT INTO job_event (job_id, seq, attempt, state, previous_state, error, at)
         SELECT job_id, seq, attempt, state, previous_state, error, at FROM gone",
    )
    .await;
}

#[tokio::test]
async fn events_come_as_they_happen_and_the_stream_ends_with_the_last() {
    let (db, api) = start(&[]).await;
    let job = submit(&api, "{\"model\":\"tiny-a\",\"prompt\":\"x\",\"metadata\":{\r\n\"a\" : 1}}").await;
    let mut stream = Stream::open(&api, job, "").await;
    let (id, queued) = stream.next().await.unwrap();
    assert_eq!(
        (id.as_str(), &queued["type"], &queued["metadata"]),
        ("1", &json!("job.queued"), &json!({"a": 1}))
    );
    let holder = db.holder().await;
    let lease = claim(&db, &holder, job).await;
    db.store.begin(&[(&lease, Phase::Loading)]).await.unwrap();
    assert_eq!(stream.next().await.unwrap().0, "2");
    relay(&db).await;
    db.store.begin(&[(&lease, Phase::Working)]).await.unwrap();
    assert_eq!(stream.next().await.unwrap().1["type"], "job.working");
    db.settle(&[(lease, success())]).await.unwrap();
    let (id, done) = stream.next().await.unwrap();
    assert_eq!((id.as_str(), &done["type"]), ("4", &json!("job.done")));
    assert!(stream.next().await.is_none(), "nothing comes after the end");
    let history = api.get(&format!("/jobs/{job}/events")).await;
    assert_eq!(history["data"][3], done, "the same body as in the history");
}

#[tokio::test]
async fn a_client_that_comes_back_gets_the_missed_events_and_after_the_end_none() {
    let (db, api) = start(&[]).await;
    let job = submit(&api, JOB).await;
    let wait = std::time::Duration::ZERO;
    run(&db, job, Exit::Retry { reason: reason(), wait }).await;
    relay(&db).await;
    db.store.promote(10).await.unwrap();
    run(&db, job, success()).await;
    for last in 0..7 {
        let last_id = if last == 0 { String::new() } else { last.to_string() };
        let events = Stream::open(&api, job, &last_id).await.rest().await;
        let ids: Vec<usize> = events.iter().map(|(id, _)| id.parse().unwrap()).collect();
        assert_eq!(ids, ((last + 1)..=7).collect::<Vec<usize>>(), "after {last}");
    }
    let path = format!("/jobs/{job}/events");
    let events = |last: &'static str| {
        ask(&api, Method::GET, &path)
            .header("accept", "text/event-stream")
            .header("last-event-id", last)
            .send()
    };
    assert_eq!(events("7").await.unwrap().status(), 204, "which tells a browser to stay away");
    for last in ["8", "-1", "x", "1.5", "99999999999999", "01ARZ3NDEKTSV4RRFFQ69G5FAV_2"] {
        assert_eq!(problem(events(last).await.unwrap(), 400, last).await, "invalid_last_event_id");
    }
    let plain = ask(&api, Method::GET, &path).header("last-event-id", "x").header("accept", "*/*");
    assert_eq!(header(&plain.send().await.unwrap(), "content-type"), "application/json");
    let missing = ask(&api, Method::GET, "/jobs/01ARZ3NDEKTSV4RRFFQ69G5FAV/events")
        .header("accept", "text/event-stream")
        .send();
    assert_eq!(problem(missing.await.unwrap(), 404, "no job").await, "no_such_job");
}

#[tokio::test]
async fn many_followers_of_a_fast_job_each_see_every_event_once() {
    let (db, api) = start(&[]).await;
    for _ in 0..10 {
        let job = submit(&api, JOB).await;
        let following = (0..20).map(async |_| Stream::open(&api, job, "").await.rest().await);
        let racing = async {
            run(&db, job, Exit::Retry { reason: reason(), wait: std::time::Duration::ZERO }).await;
            relay(&db).await;
            db.store.promote(10).await.unwrap();
            run(&db, job, success()).await;
            relay(&db).await;
        };
        let (followed, ()) = tokio::join!(futures_util::future::join_all(following), racing);
        for events in followed {
            let ids: Vec<&str> = events.iter().map(|(id, _)| id.as_str()).collect();
            assert_eq!(ids, ["1", "2", "3", "4", "5", "6", "7"]);
        }
    }
}

#[tokio::test]
async fn streams_count_against_the_client_and_are_given_back() {
    let (_db, api) = start(&[("FOREMAN_CLIENT_MAX_STREAMS", "1")]).await;
    let job = submit(&api, JOB).await;
    let mut stream = Stream::open(&api, job, "").await;
    stream.next().await.unwrap();
    let second = ask(&api, Method::GET, &format!("/jobs/{job}/events")).header("accept", "text/event-stream");
    assert_eq!(problem(second.send().await.unwrap(), 429, "a second").await, "too_many_waiting");
    assert_eq!(get(&api, &format!("/jobs/{job}/events")).await.status(), 200, "the history is no stream");
    drop(stream);
    eventually("a free seat", async || {
        let request =
            ask(&api, Method::GET, &format!("/jobs/{job}/events")).header("accept", "text/event-stream");
        let status = request.send().await.unwrap().status();
        if status == 200 { Ok(()) } else { Err(status) }
    })
    .await;
}

#[tokio::test]
async fn an_api_that_stops_ends_its_streams_and_another_goes_on() {
    let (db, mut api) = start(&[]).await;
    let other = Api::start(&db, &[]).await;
    let job = submit(&api, JOB).await;
    let mut stream = Stream::open(&api, job, "").await;
    assert_eq!(stream.next().await.unwrap().0, "1");
    let (ended, ()) = tokio::join!(stream.next(), api.process.terminate());
    assert!(ended.is_none());
    let mut stream = Stream::open(&other, job, "1").await;
    run(&db, job, success()).await;
    assert_eq!(stream.next().await.unwrap().0, "2");
    assert_eq!(stream.rest().await.len(), 2);
}

#[tokio::test]
async fn a_cancelled_job_ends_its_streams() {
    let (_db, api) = start(&[]).await;
    let job = submit(&api, JOB).await;
    let stream = Stream::open(&api, job, "").await;
    let cancel = ask(&api, Method::POST, &format!("/jobs/{job}/cancel")).send();
    let (events, cancelled) = tokio::join!(stream.rest(), cancel);
    assert_eq!(read(cancelled.unwrap()).await["state"], "cancelled");
    assert_eq!(events.last().unwrap().1["type"], "job.cancelled");
}
