//! Tests many jobs in one request: each line gets its own result, in order, and each job is made exactly once, even after a
//! failure in the middle.

use std::collections::HashSet;
use std::fmt::Write as _;

use foreman_tests::{Api, Cluster, Db, eventually};
use futures_util::future::join_all;
use futures_util::{Stream, StreamExt};
use reqwest::{Method, Response};
use serde_json::{Value, json};

use super::{JOB, ask, header, post, problem, publish, start};

const COUNT: &str = "SELECT count(*) FROM job";

/// A batch of this many jobs, each with its own key and its own prompt.
fn keyed(count: usize) -> String {
    (0..count).fold(String::new(), |mut lines, index| {
        writeln!(lines, r#"{{"model":"tiny-a","prompt":"{index}","idempotency_key":"order {index}"}}"#)
            .unwrap();
        lines
    })
}

async fn answers(response: Response) -> Vec<Value> {
    assert_eq!(response.status(), 200);
    assert_eq!(header(&response, "content-type"), "application/x-ndjson");
    let text = response.text().await.unwrap();
    assert!(text.is_empty() || text.ends_with('\n'));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn batch(api: &Api, body: impl Into<reqwest::Body>) -> Vec<Value> {
    answers(post(api, "/jobs/batch", body).await).await
}

fn ids(answers: &[Value]) -> Vec<String> {
    answers.iter().filter_map(|answer| answer["job_id"].as_str().map(str::to_owned)).collect()
}

#[tokio::test]
async fn a_bad_line_fails_alone_and_every_line_is_answered_in_order() {
    let (db, api) = start(&[]).await;
    let later = foreman_webhook::rfc3339(chrono::Utc::now() + chrono::TimeDelta::hours(1));
    let lines: Vec<(Vec<u8>, u16)> = vec![
        (JOB.into(), 202),
        (b"".to_vec(), 0),
        (b"{\"model\":\"tiny-a\",\"prompt\":\"\xff\"}".to_vec(), 400),
        (b"not JSON".to_vec(), 400),
        (b"7".to_vec(), 400),
        (b"[]".to_vec(), 400),
        (format!("{JOB} {JOB}").into(), 400),
        (br#"{"model":"llama9","prompt":"x"}"#.to_vec(), 404),
        (br#"{"model":"tiny-embed","prompt":"x"}"#.to_vec(), 400),
        (br#"{"model":"tiny-a","prompt":"x","priority":1000}"#.to_vec(), 400),
        (br#"{"model":"tiny-a","prompt":"x","Idempotency_Key":"k"}"#.to_vec(), 400),
        (br#"{"model":"tiny-a","prompt":"x","idempotency_key":7}"#.to_vec(), 400),
        (br#"{"model":"tiny-a","prompt":"x","state_webhook_url":"ftp://a"}"#.to_vec(), 422),
        (br#"{"model":"tiny-a","prompt":"x","state_webhook_url":"http://10.0.0.1/"}"#.to_vec(), 422),
        (b" \t".to_vec(), 0),
        (format!(r#"{{"model":"tiny-a","prompt":"x","run_at":"{later}"}}"#).into(), 202),
        (format!("\t{JOB} \r").into(), 202),
    ];
    // The last line has no line break at its end.
    let body = lines.iter().map(|(line, _)| line.as_slice()).collect::<Vec<_>>().join(&b'\n');
    let told = batch(&api, body).await;
    let expected: Vec<(usize, u16)> = lines
        .iter()
        .enumerate()
        .filter(|(_, (_, status))| *status != 0)
        .map(|(index, (_, status))| (index + 1, *status))
        .collect();
    let seen: Vec<(usize, u16)> = told
        .iter()
        .map(|answer| {
            (
                usize::try_from(answer["line"].as_u64().unwrap()).unwrap(),
                u16::try_from(answer["status"].as_u64().unwrap()).unwrap(),
            )
        })
        .collect();
    assert_eq!(seen, expected, "{told:#?}");
    for answer in &told {
        let members: Vec<&str> = answer.as_object().unwrap().keys().map(String::as_str).collect();
        if answer["status"] == 202 {
            assert_eq!(members, ["line", "status", "job_id"]);
        } else {
            assert_eq!(members, ["line", "status", "error"]);
            assert!(!answer["error"].as_str().unwrap().is_empty());
        }
    }
    assert_eq!(db.value::<i64>(COUNT).await, 3);
    db.every_job_has_one_room().await;
}

#[tokio::test]
async fn an_array_is_the_same_as_lines_and_jobs_keep_their_bytes_and_their_order() {
    let (db, api) = start(&[]).await;
    let job = r#"{ "model":"tiny-a", "prompt":"é", "options":{"seed": 1.50e+3}, "idempotency_key":"a", "x": [ 1 ,2 ] }"#;
    let array = batch(&api, format!(" [ {job} ,\r\n 7, {JOB}\n] ")).await;
    assert_eq!(
        array.iter().map(|answer| json!([answer["line"], answer["status"]])).collect::<Vec<_>>(),
        [json!([1, 202]), json!([2, 400]), json!([3, 202])]
    );
    let body: String = db.value("SELECT body FROM job ORDER BY id LIMIT 1").await;
    assert_eq!(
        body,
        r#"{"model":"tiny-a","prompt":"é","options":{"seed": 1.50e+3},"x":[ 1 ,2 ],"stream":true}"#
    );
    // The same bytes under the same key give the same job, whether they come in lines, in an array or alone.
    let again = batch(&api, job).await;
    assert_eq!(again[0]["job_id"], array[0]["job_id"]);
    let alone = post(&api, "/jobs", job).await;
    assert_eq!(header(&alone, "idempotency-replayed"), "true");
    let many = ids(&batch(&api, keyed(1_500)).await);
    assert_eq!(many.len(), 1_500);
    assert!(many.is_sorted(), "ids rise with the lines");
    assert_eq!(batch(&api, "[]").await, [] as [Value; 0]);
    db.every_job_has_one_room().await;
}

#[tokio::test]
async fn a_batch_sent_again_makes_no_job_twice_and_neither_does_a_key_repeated_in_it() {
    let (db, api) = start(&[]).await;
    let first = batch(&api, keyed(600)).await;
    assert_eq!(batch(&api, keyed(600)).await, first, "the answer is the same too");
    let line =
        |prompt: &str| format!(r#"{{"model":"tiny-a","prompt":"{prompt}","idempotency_key":"twice"}}"#);
    let told = batch(&api, [line("a"), line("a"), line("b"), line("a")].join("\n")).await;
    let statuses: Vec<&Value> = told.iter().map(|answer| &answer["status"]).collect();
    assert_eq!(statuses, [202, 202, 422, 202]);
    assert_eq!(ids(&told).into_iter().collect::<HashSet<_>>().len(), 1);
    // The same batch twice at the same time.
    let both = join_all([batch(&api, keyed(2_000)), batch(&api, keyed(2_000))]).await;
    assert_eq!(both[0], both[1]);
    assert_eq!(db.value::<i64>(COUNT).await, 2_001);
    db.every_job_has_one_room().await;
}

#[tokio::test]
async fn a_body_that_is_no_batch_is_refused_as_a_whole() {
    let (db, api) = start(&[("FOREMAN_MAX_BODY", "1MiB")]).await;
    let many = vec!["{}"; 10_001];
    let full = format!("{JOB}\n").repeat(20_000);
    for (body, status, code) in [
        (Vec::new(), 400, "body_missing"),
        (b"\r\n \n".to_vec(), 400, "body_missing"),
        (format!("[{JOB}").into_bytes(), 400, "not_json"),
        (format!("[{JOB},]").into_bytes(), 400, "not_json"),
        (format!("[{JOB}]\n[{JOB}]").into_bytes(), 400, "trailing_data"),
        (format!("[{JOB},\"\u{fffd}\"]").replace('\u{fffd}', "\u{0}").into_bytes(), 400, "not_json"),
        ([b"[".as_slice(), JOB.as_bytes(), b",\"\xff\"]"].concat(), 400, "not_utf8"),
        (many.join("\n").into_bytes(), 413, "too_many_jobs"),
        (format!("[{}]", many.join(",")).into_bytes(), 413, "too_many_jobs"),
        (full.into_bytes(), 413, "body_too_large"),
    ] {
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        assert_eq!(problem(post(&api, "/jobs/batch", body).await, status, &shown).await, code, "{shown}");
    }
    let with_key = ask(&api, Method::POST, "/jobs/batch").header("idempotency-key", "k").body(JOB);
    assert_eq!(
        problem(with_key.send().await.unwrap(), 400, "a key for all").await,
        "invalid_idempotency_key"
    );
    assert_eq!(problem(super::get(&api, "/jobs/batch").await, 405, "GET").await, "method_not_allowed");
    assert_eq!(db.value::<i64>(COUNT).await, 0);
}

#[tokio::test]
async fn a_limit_reached_in_the_middle_refuses_the_lines_from_there_on() {
    let (db, api) = start(&[("FOREMAN_CLIENT_MAX_QUEUED", "1200")]).await;
    let told = batch(&api, keyed(2_000)).await;
    // A count in the middle may count jobs under way twice. It never counts too few.
    let accepted = ids(&told).len();
    assert!((1_080..=1_200).contains(&accepted), "{accepted}");
    assert!(told.iter().all(|answer| answer["status"] == 202 || answer["status"] == 429));
    // A key that has a job keeps it, although the queue is full.
    for (before, after) in told.iter().zip(batch(&api, keyed(2_000)).await) {
        assert!(before["status"] == 429 || *before == after, "{before} {after}");
    }
    assert!(db.value::<i64>(COUNT).await <= 1_200);
}

#[tokio::test]
async fn unknown_models_are_asked_for_once_a_batch() {
    let (_db, api) = start(&[]).await;
    let lines: Vec<String> =
        (0..2_000).map(|index| format!(r#"{{"model":"unknown-{index}","prompt":"x"}}"#)).collect();
    // If the hosts were asked for one model after the other, half a second apart, this would take a quarter of an hour.
    let told = batch(&api, lines.join("\n")).await;
    assert!(told.len() == 2_000 && told.iter().all(|answer| answer["status"] == 404));
}

#[tokio::test]
async fn the_largest_batch_leaves_room_for_others() {
    let (db, api) = start(&[]).await;
    let singles = async {
        let mut accepted = 0;
        while db.value::<i64>(COUNT).await < 10_000 {
            assert_eq!(post(&api, "/jobs", JOB).await.status(), 202);
            accepted += 1;
        }
        accepted
    };
    let (told, singles) = tokio::join!(batch(&api, keyed(10_000)), singles);
    assert_eq!(ids(&told).len(), 10_000);
    assert!(singles > 0);
    assert_eq!(db.value::<i64>(COUNT).await, 10_000 + singles);
    db.every_job_has_one_room().await;
}

/// Reads the answer to a batch until at least one line has come, and returns the rest.
async fn first_lines(response: Response) -> impl Stream<Item = reqwest::Result<impl AsRef<[u8]>>> {
    let mut stream = response.bytes_stream();
    let first = stream.next().await.unwrap().unwrap();
    assert!(first.starts_with(b"{\"line\":1,"));
    stream
}

#[tokio::test]
async fn after_an_api_was_killed_in_the_middle_the_batch_can_be_sent_again() {
    let (db, mut api) = start(&[]).await;
    let mut begun = Box::pin(first_lines(post(&api, "/jobs/batch", keyed(10_000)).await).await);
    api.process.kill().await;
    let cut_off = async {
        while let Some(read) = begun.next().await {
            read?;
        }
        Ok::<_, reqwest::Error>(())
    };
    assert!(cut_off.await.is_err(), "an answer that is cut off does not look complete");
    let before: i64 = db.value(COUNT).await;
    assert!(before > 0);
    api.process.start_again();
    api.ready().await;
    let told = batch(&api, keyed(10_000)).await;
    assert_eq!(ids(&told).into_iter().collect::<HashSet<_>>().len(), 10_000);
    assert_eq!(db.value::<i64>(COUNT).await, 10_000);
    db.every_job_has_one_room().await;
}

#[tokio::test]
async fn a_client_that_hangs_up_ends_its_batch() {
    let (db, api) = start(&[]).await;
    // The batch's flushes wait for this lock, so the batch cannot end before the client is gone.
    let mut lock = db.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE outbox IN EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();
    let begun = post(&api, "/jobs/batch", keyed(5_000)).await;
    eventually("a flush that waits", async || {
        let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'outbox'::regclass";
        if db.value::<i64>(waiting).await > 0 { Ok(()) } else { Err("none") }
    })
    .await;
    drop(begun);
    // The api notices that the client hung up before it gives this answer.
    assert_eq!(super::get(&api, "/jobs").await.status(), 200);
    lock.rollback().await.unwrap();
    // A job that comes now is written after all jobs of the batch that are still written.
    assert_eq!(post(&api, "/jobs", JOB).await.status(), 202);
    let written: i64 = db.value(COUNT).await;
    assert!(written < 5_001, "{written}");
    assert_eq!(ids(&batch(&api, keyed(5_000)).await).len(), 5_000);
    assert_eq!(db.value::<i64>(COUNT).await, 5_001);
}

#[tokio::test]
async fn lines_that_find_no_database_are_told_so_and_can_be_sent_again() {
    let cluster = Cluster::durable().await;
    let db = Db::on(&cluster).await;
    publish(&db).await;
    let api = Api::start(&db, &[]).await;
    let begun = post(&api, "/jobs/batch", keyed(10_000)).await;
    let mut stream = begun.bytes_stream();
    let mut text = stream.next().await.unwrap().unwrap().to_vec();
    cluster.kill();
    while let Some(read) = stream.next().await {
        text.extend_from_slice(&read.unwrap());
    }
    let told: Vec<Value> =
        std::str::from_utf8(&text).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(told.len(), 10_000, "every line is answered");
    let accepted: HashSet<String> = ids(&told).into_iter().collect();
    assert!(told.iter().all(|answer| answer["status"] == 202 || answer["status"] == 503));
    assert!(accepted.len() < 10_000);
    cluster.start_again().await;
    let again = eventually("the whole batch", async || {
        let told = batch(&api, keyed(10_000)).await;
        let ids: HashSet<String> = ids(&told).into_iter().collect();
        if ids.len() == 10_000 { Ok(ids) } else { Err(ids.len()) }
    })
    .await;
    assert!(accepted.is_subset(&again), "accepted jobs stay");
    assert_eq!(db.value::<i64>(COUNT).await, 10_000);
    db.every_job_has_one_room().await;
}
