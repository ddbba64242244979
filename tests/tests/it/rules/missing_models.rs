//! A job fails for want of its model only if no host has the model, whether the host's worker lives or not.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use foreman_store::{JobId, JobRequest, NewJob, PublishedModel, Reason};
use foreman_tests::{Db, within};

fn model(canonical: &str) -> PublishedModel {
    PublishedModel { canonical: canonical.to_owned(), label: canonical.to_owned(), completes: true }
}

async fn accept(db: &Db, load_keys: &[&str]) -> Vec<JobId> {
    let jobs: Vec<_> = load_keys
        .iter()
        .map(|key| db.job(JobRequest { load_key: (*key).to_owned(), ..db.request() }))
        .collect();
    db.accept_all(&jobs).await
}

/// Tries to fail jobs of these models, and returns the jobs that failed.
async fn fail(db: &Db, models: &[&str], limit: i64) -> Vec<JobId> {
    let reason = |model| Reason { code: "model_gone".to_owned(), error: format!("nobody has {model}") };
    let models: Vec<_> = models.iter().map(|model| ((*model).to_owned(), reason(model))).collect();
    let failed = db.store.fail_for_want_of_model(&models, limit).await.unwrap();
    failed.into_iter().map(|(job, _)| job).collect()
}

#[tokio::test]
async fn a_model_that_any_host_has_is_not_missing_whether_that_host_lives_or_not() {
    let db = Db::fresh().await;
    accept(&db, &["a:latest", "b:latest num_ctx=512", "b:latest", "c:latest shift=false", "c:latest-x"])
        .await;
    let (one, other) = (db.holder_of("one").await, db.holder_of("other").await);
    db.store.publish_models(&one, &[model("a:latest")]).await.unwrap();
    db.store.publish_models(&other, &[model("b:latest")]).await.unwrap();
    db.store.note_unreachable(&other).await.unwrap();
    db.store.deregister_worker(other.worker).await.unwrap();
    assert_eq!(db.store.missing_models().await.unwrap(), ["c:latest", "c:latest-x"]);
    assert_eq!(fail(&db, &["a:latest", "b:latest"], 9).await, [], "whatever the caller believes");
}

#[tokio::test]
async fn before_anything_is_published_nothing_is_missing() {
    let db = Db::fresh().await;
    accept(&db, &["a:latest"]).await;
    db.holder().await;
    assert_eq!(db.store.missing_models().await.unwrap(), [""; 0]);
    assert_eq!(fail(&db, &["a:latest"], 9).await, []);
}

#[tokio::test]
async fn jobs_of_a_missing_model_fail_from_the_queue_with_the_reason() {
    let db = Db::fresh().await;
    let jobs = accept(&db, &["a:latest", "a:latest num_ctx=512", "a:latest-x", "b:latest"]).await;
    let due = Some(Utc::now() + TimeDelta::hours(1));
    let later =
        NewJob { run_at: due, ..db.job(JobRequest { load_key: "a:latest".to_owned(), ..db.request() }) };
    db.accept_all(std::slice::from_ref(&later)).await;
    let holder = db.holder().await;
    db.store.publish_models(&holder, &[]).await.unwrap();

    let mut failed = fail(&db, &["a:latest"], 1).await;
    assert_eq!(failed.len(), 1, "no more than were asked for");
    failed.extend(fail(&db, &["a:latest"], 9).await);
    failed.sort();
    assert_eq!(failed, jobs[..2], "with whatever they are loaded, and no other model that begins so");
    for job in failed {
        assert_eq!(db.room(job).await, "failed");
        assert_eq!(db.history(job).await, ["queued", "failed"]);
    }
    let told = "SELECT DISTINCT format('%s %s %s %s', attempt, failures, error_code, error) FROM job_done";
    assert_eq!(db.value::<String>(told).await, "0 0 model_gone nobody has a:latest");
    assert_eq!(db.value::<i64>("SELECT count(*) FROM outbox WHERE error = 'nobody has a:latest'").await, 2);
    assert_eq!(db.room(later.id).await, "scheduled", "the model may be there when its time comes");
    db.every_job_has_one_room().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_either_claimed_or_failed_for_want_of_its_model() {
    let db = Db::fresh().await;
    let holder = db.holder().await;
    db.store.publish_models(&holder, &[]).await.unwrap();
    let other = db.another_store();
    for _ in 0..10 {
        db.accept(20).await;
        let reason = Reason { code: "model_gone".to_owned(), error: "nobody has it".to_owned() };
        let models = [(foreman_tests::LOAD_KEY.to_owned(), reason)];
        let (claimed, failed) =
            tokio::join!(db.claim(&holder, 20), other.fail_for_want_of_model(&models, 20));
        assert_eq!(claimed.len() + failed.unwrap().len(), 20);
        db.run("TRUNCATE job, job_lease, job_done, outbox").await;
    }
}

#[tokio::test]
async fn looking_for_missing_models_costs_the_models_and_not_the_jobs() {
    let db = Db::fresh().await;
    let holder = db.holder().await;
    db.store.publish_models(&holder, &[]).await.unwrap();
    for nth in 0..4 {
        let key = |index: usize| format!("m{nth}:latest num_ctx={}", index % 50);
        let jobs: Vec<_> =
            (0..500).map(|i| db.job(JobRequest { load_key: key(i), ..db.request() })).collect();
        db.accept_all(&jobs).await;
    }
    let store = db.one_connection();
    let read = "SELECT coalesce(sum(idx_tup_read), 0)::bigint FROM pg_stat_user_indexes WHERE indexrelname = 'job_ready_group'";
    let before: i64 = db.value(read).await;
    assert_eq!(store.missing_models().await.unwrap().len(), 4);
    store.close().await;
    let read = within(Duration::from_secs(10), "the count of what was read", async || {
        match db.value::<i64>(read).await - before {
            0 => Err("nothing was counted yet"),
            read => Ok(read),
        }
    })
    .await;
    assert!(read < 50, "{read} entries were read for four models");
}
