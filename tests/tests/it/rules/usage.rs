//! What is used counts once, together with the exit that it belongs to, and is added up without a loss.

use std::collections::HashMap;
use std::time::Duration;

use foreman_store::{
    DrainBound, Exit, JobRequest, Lease, LeaseNo, NewJob, Phase, Scope, Settled, UsageBy, UsageFilter,
    UsageSum, Used,
};
use foreman_tests::{Db, copy_of, reason, success};

const A_SECOND: Used = Used { gpu: Duration::from_secs(1), loads: 1, context: Some(4_096) };

fn used(leases: &[&Lease]) -> HashMap<LeaseNo, Used> {
    leases.iter().map(|lease| (lease.no, A_SECOND)).collect()
}

/// The sums of the last and the next hour.
async fn usage(db: &Db, by: UsageBy) -> Vec<UsageSum> {
    let (now, hours) = (db.now().await, chrono::TimeDelta::hours(2));
    let filter = UsageFilter { by, from: now - hours, to: now + hours };
    db.store.usage(Scope::Everyone, &filter, 10).await.unwrap()
}

async fn add_up(db: &Db) -> u64 {
    db.store.add_up_usage(&mut DrainBound::default(), 100).await.unwrap()
}

#[tokio::test]
async fn what_an_attempt_has_used_counts_once_and_never_from_a_stale_holder() {
    let db = Db::fresh().await;
    db.accept(2).await;
    let holder = db.holder().await;
    let stale = db.start(&holder).await;
    db.rescue_from(&holder).await;
    let holder = db.holder().await;
    let (again, other) = (db.start(&holder).await, db.start(&holder).await);
    let all = used(&[&stale, &again, &other]);
    assert_eq!(db.store.settle(&[(stale, success())], &all).await.unwrap(), [Settled::Stale]);
    assert_eq!(usage(&db, UsageBy::Client).await, []);

    let repeated = [(copy_of(&again), success()), (copy_of(&other), Exit::Failed(reason()))];
    let settled = db.store.settle(&repeated, &all).await.unwrap();
    assert!(settled.iter().all(|settled| matches!(settled, Settled::Into(_))));
    // The answer to the COMMIT was lost, so the holder repeats it.
    assert_eq!(db.store.settle(&repeated, &all).await.unwrap(), [Settled::Already; 2]);
    let sums = usage(&db, UsageBy::Client).await;
    let [sum] = &sums[..] else { panic!("{sums:?}") };
    assert_eq!((sum.done, sum.failed, sum.cancelled, sum.expired), (1, 1, 0, 0));
    assert_eq!((sum.gpu_seconds, sum.loads, sum.prompt_tokens, sum.completion_tokens), (2.0, 2, 3, 1));
    db.every_end_is_counted_once().await;
}

#[tokio::test]
async fn an_attempt_counts_though_its_job_goes_back_and_what_was_only_held_does_not() {
    let db = Db::fresh().await;
    db.accept(3).await;
    let holder = db.holder().await;
    let leases: Vec<Lease> = db.claim(&holder, 3).await.into_iter().map(|job| job.lease).collect();
    let [failed, handed_back, held] = leases.try_into().unwrap();
    db.store.begin(&[(&failed, Phase::Working), (&handed_back, Phase::Working)]).await.unwrap();
    let used = used(&[&failed, &handed_back]);
    let exits = [
        (failed, Exit::Retry { reason: reason(), wait: Duration::ZERO }),
        (handed_back, Exit::HandBack { reason: reason() }),
        (held, Exit::HandBack { reason: reason() }),
    ];
    db.store.settle(&exits, &used).await.unwrap();
    let sums = usage(&db, UsageBy::Model).await;
    assert_eq!(
        (sums.len(), sums[0].done + sums[0].failed, sums[0].gpu_seconds, sums[0].loads),
        (1, 0, 2.0, 2)
    );
    assert_eq!(db.value::<i64>("SELECT count(*) FROM usage_entry").await, 1, "one for the whole statement");
}

#[tokio::test]
async fn only_a_job_that_has_run_ended_with_a_context() {
    let db = Db::fresh().await;
    db.accept(2).await;
    let holder = db.holder().await;
    let leases: Vec<Lease> = db.claim(&holder, 2).await.into_iter().map(|job| job.lease).collect();
    let [ran, loaded] = leases.try_into().unwrap();
    db.store.begin(&[(&ran, Phase::Working), (&loaded, Phase::Loading)]).await.unwrap();
    let used = used(&[&ran, &loaded]);
    let jobs = [ran.job_id, loaded.job_id];
    db.store.settle(&[(ran, success()), (loaded, Exit::Cancelled)], &used).await.unwrap();
    for (job, context) in jobs.into_iter().zip([Some(4_096), None]) {
        let view = db.store.job(Scope::Everyone, job, 0).await.unwrap().unwrap();
        assert_eq!(view.context, context, "{}", view.state.as_str());
    }
}

#[tokio::test]
async fn a_job_that_ends_without_a_worker_counts_for_its_user_and_model() {
    let db = Db::fresh().await;
    let job = |user: &str, load_key: &str| {
        let (user, load_key) = (user.parse().unwrap(), load_key.to_owned());
        db.job(JobRequest { user, load_key, ..db.request() })
    };
    let past = db.now().await - Duration::from_secs(1);
    let jobs = [
        job("ada", "tiny-a:latest num_ctx=512"),
        NewJob { expires_at: past, ..job("bob", "tiny-a:latest") },
        job("", "gone:latest"),
    ];
    db.accept_all(&jobs).await;
    db.store.cancel(db.client, jobs[0].id).await.unwrap();
    db.store.expire(10).await.unwrap();
    let holder = db.holder().await;
    db.store.publish_models(&holder, &[]).await.unwrap();
    db.store.fail_for_want_of_model(&[("gone:latest".to_owned(), reason())], 10).await.unwrap();
    for added_up in [false, true] {
        let mut users = usage(&db, UsageBy::User).await;
        users.sort_by_key(|sum| sum.user.clone());
        let ends =
            |sum: &UsageSum| (sum.user.clone().unwrap().to_string(), sum.failed, sum.cancelled, sum.expired);
        let ends: Vec<_> = users.iter().map(ends).collect();
        assert_eq!(
            ends,
            [(String::new(), 1, 0, 0), ("ada".to_owned(), 0, 1, 0), ("bob".to_owned(), 0, 0, 1)]
        );
        let models = usage(&db, UsageBy::Model).await;
        let models: Vec<_> = models.iter().filter_map(|sum| sum.model.as_deref()).collect();
        assert_eq!((models.len(), models.contains(&"tiny-a:latest")), (2, true), "{models:?}");
        db.every_end_is_counted_once().await;
        assert_eq!(add_up(&db).await, if added_up { 0 } else { 3 });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_janitors_add_up_each_entry_once_while_jobs_end() {
    let db = Db::fresh().await;
    let holder = db.holder().await;
    let other = db.another_store();
    for _ in 0..20 {
        db.accept(10).await;
        let exits: Vec<_> =
            db.claim(&holder, 10).await.into_iter().map(|job| (job.lease, Exit::Failed(reason()))).collect();
        let used = used(&exits.iter().map(|(lease, _)| lease).collect::<Vec<_>>());
        let (mut one, mut another) = (DrainBound::default(), DrainBound::default());
        let (settled, first, second) = tokio::join!(
            db.store.settle(&exits, &used),
            db.store.add_up_usage(&mut one, 100),
            other.add_up_usage(&mut another, 100)
        );
        settled.unwrap();
        first.unwrap();
        second.unwrap();
        let sums = usage(&db, UsageBy::Client).await;
        let expected: i64 = db.value("SELECT count(*) FROM job_done").await;
        assert_eq!(sums.iter().map(|sum| sum.failed).sum::<i64>(), expected);
    }
    add_up(&db).await;
    assert_eq!(db.value::<i64>("SELECT count(*) FROM usage_entry").await, 0);
    assert_eq!(usage(&db, UsageBy::Client).await.iter().map(|sum| sum.gpu_seconds).sum::<f64>(), 200.0);
    db.every_end_is_counted_once().await;
}

#[tokio::test]
async fn sums_are_kept_for_their_time_and_shown_to_their_client_alone() {
    let db = Db::fresh().await;
    db.accept(1).await;
    let lease = db.start(&db.holder().await).await;
    db.settle(&[(lease, success())]).await.unwrap();
    add_up(&db).await;
    let (now, year) = (db.now().await, Duration::from_secs(365 * 86_400));
    let filter = UsageFilter { by: UsageBy::Hour, from: now - year, to: now };
    let seen_by = async |client| db.store.usage(Scope::Client(client), &filter, 10).await.unwrap().len();
    assert_eq!(seen_by(db.client).await, 1);
    assert_eq!(seen_by(foreman_store::ClientId::generate()).await, 0);
    assert_eq!(db.store.prune_usage(year).await.unwrap(), 0);
    db.run("UPDATE usage_hour SET hour = hour - interval '366 days'").await;
    assert_eq!(db.store.prune_usage(year).await.unwrap(), 1);
}
