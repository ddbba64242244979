//! Rescue goes by liveness: the jobs of a dead worker go back to the queue, and those of a live worker stay with it.

use std::time::Duration;

use foreman_store::{ApiId, MAX_RESCUES, NewJob, Offer, Permit, Phase, Rescued};
use foreman_tests::Db;

#[tokio::test]
async fn only_the_dead_are_rescued_from() {
    let db = Db::fresh().await;
    let [dead_job, live_job] = db.accept(2).await.try_into().unwrap();
    let dead = db.holder().await;
    db.start(&dead).await;
    let live = db.holder().await;
    db.start(&live).await;
    let seen = [db.heartbeat(&dead).await, db.heartbeat(&live).await];
    db.renew(&live).await;
    assert_eq!(db.store.rescue(&seen).await.unwrap(), Rescued { workers: 1, leases: 1 });
    assert_eq!(db.room(dead_job).await, "ready");
    assert_eq!(db.room(live_job).await, "lease");
    assert_eq!(db.store.rescue(&seen).await.unwrap(), Rescued::default());
}

#[tokio::test]
async fn a_worker_says_how_long_it_may_be_silent_and_is_dead_when_somebody_has_seen_that() {
    let db = Db::fresh().await;
    let holder = db.holder().await;
    assert_eq!(db.heartbeat(&holder).await.ttl, Duration::from_secs(120));
    db.silence(&holder).await;
    assert_eq!(db.store.rescue(&[]).await.unwrap(), Rescued::default(), "nobody has seen it be silent");
    assert_eq!(db.rescue_from(&holder).await.workers, 1);
    assert!(db.claim(&holder, 1).await.is_empty());
}

#[tokio::test]
async fn the_fifth_rescue_fails_the_job_and_says_so() {
    let db = Db::fresh().await;
    let job = db.accept(1).await[0];
    for nth in 1..=MAX_RESCUES {
        assert_eq!(db.room(job).await, "ready", "before rescue {nth}");
        let holder = db.holder().await;
        db.start(&holder).await;
        db.rescue_from(&holder).await;
    }
    assert_eq!(db.room(job).await, "failed");
    let done = "SELECT format('%s %s %s %s', attempt, failures, rescues, error_code) FROM job_done";
    assert_eq!(db.value::<String>(done).await, "5 0 5 worker_lost");
    assert!(db.value::<String>("SELECT error FROM outbox WHERE state = 'failed'").await.contains("5 times"));
    db.every_job_has_one_room().await;
}

#[tokio::test]
async fn what_was_held_and_not_begun_goes_back_uncounted() {
    let db = Db::fresh().await;
    let job = db.accept(1).await[0];
    for _ in 0..=MAX_RESCUES {
        let holder = db.holder().await;
        assert_eq!(db.claim(&holder, 1).await.len(), 1);
        assert_eq!(db.rescue_from(&holder).await.leases, 1);
    }
    assert_eq!(db.room(job).await, "ready");
    assert_eq!(db.history(job).await, ["queued"]);
}

#[tokio::test]
async fn a_lease_without_a_worker_row_is_rescued_and_a_cancel_is_honoured() {
    let db = Db::fresh().await;
    let [cancelled, requeued] = db.accept(2).await.try_into().unwrap();
    let holder = db.holder().await;
    let claimed = db.claim(&holder, 2).await;
    let beginnings: Vec<_> = claimed.iter().map(|claimed| (&claimed.lease, Phase::Loading)).collect();
    db.store.begin(&beginnings).await.unwrap();
    db.store.cancel(db.client, cancelled).await.unwrap();
    db.run("DELETE FROM worker").await;
    assert_eq!(db.store.rescue(&[]).await.unwrap(), Rescued { workers: 0, leases: 2 });
    assert_eq!(db.history(cancelled).await, ["queued", "loading", "cancelled"]);
    assert_eq!(db.history(requeued).await, ["queued", "loading", "queued"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_janitors_rescue_each_lease_once() {
    let db = Db::fresh().await;
    let other = db.another_store();
    for _ in 0..20 {
        db.accept(20).await;
        let holder = db.holder().await;
        assert_eq!(db.claim(&holder, 20).await.len(), 20);
        let dead = [db.heartbeat(&holder).await];
        let (one, another) = tokio::join!(db.store.rescue(&dead), other.rescue(&dead));
        assert_eq!(one.unwrap().leases + another.unwrap().leases, 20);
        db.run("DELETE FROM job_ready; TRUNCATE job, outbox").await;
    }
}

/// Four sync calls of one api under a dead worker: held, loading, and two that work, one of them with a cancel. Returns
/// their states after the rescue.
async fn calls_after_a_rescue(prepare: impl AsyncFn(&Db, ApiId)) -> [String; 4] {
    let (db, api) = (Db::fresh().await, ApiId::generate());
    let jobs: Vec<_> = (0..4).map(|_| NewJob { api: Some(api), ..db.new_job() }).collect();
    let jobs = db.accept_all(&jobs).await;
    prepare(&db, api).await;
    let holder = db.holder().await;
    let claimed = db.claim(&holder, 4).await;
    let phases = [Phase::Loading, Phase::Working, Phase::Working];
    let beginnings: Vec<_> = claimed[1..].iter().map(|claimed| &claimed.lease).zip(phases).collect();
    db.store.begin(&beginnings).await.unwrap();
    db.store.cancel(db.client, jobs[3]).await.unwrap();
    db.rescue_from(&holder).await;
    db.every_job_has_one_room().await;
    let rooms = jobs.iter().map(|&job| db.room(job));
    let rooms = futures_util::future::join_all(rooms).await;
    rooms.try_into().unwrap()
}

#[tokio::test]
async fn a_call_that_worked_runs_again_only_while_an_api_lives_that_can_cancel_it() {
    let ttl = Duration::from_secs(20);
    let live = calls_after_a_rescue(async |db, api| db.store.renew_api(api, ttl).await.unwrap()).await;
    assert_eq!(live, ["ready", "ready", "scheduled", "cancelled"], "its api has a moment to cancel it");
    let gone = calls_after_a_rescue(async |_, _| {}).await;
    assert_eq!(gone, ["ready", "ready", "cancelled", "cancelled"], "what had not worked gave nothing out");
    let silent = calls_after_a_rescue(async |db, api| {
        db.store.renew_api(api, ttl).await.unwrap();
        db.run("UPDATE api_process SET renewed_at = now() - interval '21 seconds'").await;
    });
    assert_eq!(silent.await, ["ready", "ready", "cancelled", "cancelled"]);
}

#[tokio::test]
async fn a_call_whose_api_may_have_died_too_waits_until_a_janitor_has_decided_that() {
    const WAIT: &str = "SELECT extract(epoch FROM max(due_at) - now())::float8 FROM job_scheduled";
    for (silent, waits_for) in [(0, 0.0..=1.0), (5, 13.0..=17.0)] {
        let (db, api) = (Db::fresh().await, ApiId::generate());
        db.accept_all(&[NewJob { api: Some(api), ..db.new_job() }]).await;
        let holder = db.holder().await;
        let claimed = db.claim(&holder, 1).await;
        db.store.begin(&[(&claimed[0].lease, Phase::Working)]).await.unwrap();
        db.store.renew_api(api, Duration::from_secs(20)).await.unwrap();
        db.run(&format!("UPDATE api_process SET renewed_at = now() - interval '{silent} seconds'")).await;
        db.rescue_from(&holder).await;
        let wait: f64 = db.value(WAIT).await;
        assert!(waits_for.contains(&wait), "{wait} s after a silence of {silent} s");
    }
}

#[tokio::test]
async fn what_may_have_been_sent_ahead_counts_as_run_although_nobody_saw_it_begin() {
    let (db, api) = (Db::fresh().await, ApiId::generate());
    let [job, call] =
        db.accept_all(&[db.new_job(), NewJob { api: Some(api), ..db.new_job() }]).await.try_into().unwrap();
    for nth in 1..=MAX_RESCUES {
        db.store.renew_api(api, Duration::from_secs(20)).await.unwrap();
        let holder = db.holder().await;
        let offers = [false, true].map(|sync| Offer { sync, ..db.offer(1) });
        let claimed = db.store.claim(&holder, &offers, 2, Permit::SendAhead).await.unwrap();
        assert!(claimed.iter().all(|claimed| claimed.permit == Permit::SendAhead));
        db.rescue_from(&holder).await;
        let waits = if nth == 1 { "scheduled" } else { "cancelled" };
        assert_eq!(db.room(call).await, waits, "its caller may have a part of the answer");
        if nth == 1 {
            db.store.cancel(db.client, call).await.unwrap();
        }
    }
    assert_eq!(db.room(job).await, "failed");
    assert_eq!(db.history(job).await, ["queued", "failed"]);
    assert_eq!(db.history(call).await, ["queued", "cancelled"]);
}
