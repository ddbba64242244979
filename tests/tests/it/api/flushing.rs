//! Tests what clients are told when the submitter's flush fails.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::TimeDelta;
use foreman_tests::{Api, Db, eventually};
use futures_util::future::join_all;
use serde_json::Value;

use super::{JOB, json, post, problem, publish, start};

#[tokio::test]
async fn a_job_that_cannot_be_stored_is_refused_alone() {
    let (db, api) = start(&[]).await;
    // We know no job that passes the parser and cannot be stored, so the test adds a constraint.
    db.run("ALTER TABLE job ADD CONSTRAINT no_poison CHECK (metadata IS NULL)").await;
    let poisoned = r#"{"model":"tiny-a","prompt":"x","metadata":{"poison":true}}"#;
    let answers =
        join_all((0..100).map(|index| post(&api, "/jobs", if index % 10 == 0 { poisoned } else { JOB })))
            .await;
    for (index, answer) in answers.into_iter().enumerate() {
        if index % 10 == 0 {
            assert_eq!(problem(answer, 400, "poisoned").await, "not_storable");
        } else {
            assert_eq!(answer.status(), 202);
        }
    }
    assert_eq!(db.value::<i64>("SELECT count(*) FROM job").await, 90);
    db.every_job_has_one_room().await;
}

/// Submits one job after the other until `stop`. Returns the ids of the accepted jobs, and the number of unknown ones.
async fn submit_until(api: &Api, stop: &AtomicBool) -> (Vec<String>, usize) {
    let (mut accepted, mut unknown) = (Vec::new(), 0);
    while !stop.load(Ordering::Relaxed) {
        let answer = post(api, "/jobs", JOB).await;
        let status = answer.status().as_u16();
        let body: Value = json(answer).await;
        match (status, body["code"].as_str()) {
            (202, _) => accepted.push(body["job_id"].as_str().unwrap().to_owned()),
            (503, Some("acceptance_unknown")) => unknown += 1,
            (503, Some("not_accepted" | "database_away")) => {}
            other => panic!("{other:?}: {body}"),
        }
    }
    (accepted, unknown)
}

const COUNT: &str = "SELECT count(*) FROM job";

#[tokio::test]
async fn when_connections_break_a_202_is_a_job_and_a_refusal_is_none() {
    let db = Db::fresh().await;
    publish(&db).await;
    let apis = [Api::start(&db, &[]).await, Api::start(&db, &[]).await];
    let stop = AtomicBool::new(false);
    let submitting = join_all((0..16).map(|index| submit_until(&apis[index % 2], &stop)));
    let cutting = async {
        for _ in 0..40 {
            let before: i64 = db.value(COUNT).await;
            db.run(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                 WHERE datname = current_database() AND application_name = 'foreman'",
            )
            .await;
            eventually("more jobs", async || {
                let now: i64 = db.value(COUNT).await;
                if now >= before + 5 { Ok(()) } else { Err(now) }
            })
            .await;
        }
        stop.store(true, Ordering::Relaxed);
    };
    let (submitted, ()) = tokio::join!(submitting, cutting);
    let unknown: usize = submitted.iter().map(|(_, unknown)| unknown).sum();
    let accepted: HashSet<String> = submitted.into_iter().flat_map(|(accepted, _)| accepted).collect();
    let stored: Vec<sqlx::types::Uuid> = db.values("SELECT id FROM job").await;
    let stored: HashSet<String> =
        stored.into_iter().map(|id| foreman_store::JobId::from(id).to_string()).collect();
    let lost: Vec<_> = accepted.difference(&stored).collect();
    assert!(lost.is_empty(), "accepted and not there: {lost:?}");
    let extra = stored.difference(&accepted).count();
    assert!(extra <= unknown, "{extra} jobs that nobody was told of, {unknown} answers unknown");
    assert!(accepted.len() > 50, "{} accepted", accepted.len());
    db.every_job_has_one_room().await;
}

#[tokio::test]
async fn a_job_that_waits_for_a_lock_is_refused_and_does_not_appear_afterwards() {
    let (db, api) = start(&[]).await;
    let mut lock = db.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE outbox").execute(&mut *lock).await.unwrap();
    assert_eq!(problem(post(&api, "/jobs", JOB).await, 503, "locked").await, "not_accepted");
    lock.rollback().await.unwrap();
    assert_eq!(post(&api, "/jobs", JOB).await.status(), 202);
    assert_eq!(db.value::<i64>(COUNT).await, 1);
}

#[tokio::test]
async fn a_missing_partition_is_no_fault_of_the_job() {
    let (db, api) = start(&[]).await;
    let today: String = db.value("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD')").await;
    let bound: String = db
        .value(&format!(
            "SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE relname = 'job_done_{today}'"
        ))
        .await;
    db.run(&format!("ALTER TABLE job DETACH PARTITION job_{today}")).await;
    assert_eq!(problem(post(&api, "/jobs", JOB).await, 503, "no partition").await, "not_accepted");
    db.run(&format!("ALTER TABLE job ATTACH PARTITION job_{today} {bound}")).await;
    assert_eq!(post(&api, "/jobs", JOB).await.status(), 202);
}

#[tokio::test]
async fn after_a_glitch_of_the_clock_the_api_takes_jobs_again() {
    let db = Db::fresh().await;
    publish(&db).await;
    let api = Api::start(&db, &[("DATABASE_URL", &db.url_with_a_clock().await)]).await;
    assert_eq!(post(&api, "/jobs", JOB).await.status(), 202);
    db.set_clock(TimeDelta::days(16)).await;
    assert_eq!(problem(post(&api, "/jobs", JOB).await, 503, "glitch").await, "not_accepted");
    db.set_clock(TimeDelta::zero()).await;
    assert_eq!(post(&api, "/jobs", JOB).await.status(), 202);
    api.ready().await;
}
