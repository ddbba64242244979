//! Only one worker at a time claims for a host, and no worker takes a host over during a claim of another.

use std::time::Duration;

use foreman_store::{Exit, Heartbeat, Holder, HostOffer, JobId, JobState, PublishedModel, Settled, WorkerId};
use foreman_tests::{Db, LOAD_KEY, eventually, reason, success};

const TTL: Duration = Duration::from_secs(20);

async fn worker(db: &Db, host: &str) -> WorkerId {
    let worker = WorkerId::generate();
    db.store.register_worker(worker, host, &["run"], TTL, None).await.unwrap();
    worker
}

async fn take(db: &Db, worker: WorkerId, host: &str) -> Option<Holder> {
    take_from(db, worker, host, &[]).await
}

async fn take_from(db: &Db, worker: WorkerId, host: &str, dead: &[Heartbeat<WorkerId>]) -> Option<Holder> {
    let offer = HostOffer { id: host, url: "http://127.0.0.1:11434", slots: 1, ttl: TTL };
    db.store.take_host(worker, &offer, dead).await.unwrap()
}

#[tokio::test]
async fn a_host_changes_hands_when_it_is_released_or_its_holder_is_dead_or_gone_and_not_before() {
    let db = Db::fresh().await;
    let (one, other) = (worker(&db, "h").await, worker(&db, "h").await);
    let first = take(&db, one, "h").await.unwrap();
    assert_eq!(take(&db, other, "h").await, None, "it is held");

    assert!(db.store.release_host(&first).await.unwrap());
    let second = take(&db, other, "h").await.unwrap();
    assert!(second.fence > first.fence, "every change of hands raises the fence");
    assert!(
        !db.store.release_host(&first).await.unwrap(),
        "what was taken over is not released by its last holder"
    );

    db.silence(&second).await;
    assert_eq!(take(&db, one, "h").await, None, "however old its row looks: a clock proves nothing");
    let seen = db.heartbeat(&second).await;
    db.renew(&second).await;
    assert_eq!(take_from(&db, one, "h", &[seen]).await, None, "it has renewed since");
    let third = take_from(&db, one, "h", &[db.heartbeat(&second).await]).await.unwrap();

    db.store.deregister_worker(one).await.unwrap();
    let fourth = take(&db, other, "h").await.unwrap();
    assert!(fourth.fence > third.fence);
}

#[tokio::test]
async fn of_many_who_want_a_free_host_one_gets_it() {
    let db = Db::fresh().await;
    let mut workers = Vec::new();
    for _ in 0..8 {
        workers.push(worker(&db, "h").await);
    }
    let taken =
        futures_util::future::join_all(workers.into_iter().map(|worker| take(&db, worker, "h"))).await;
    assert_eq!(taken.into_iter().flatten().count(), 1);
}

#[tokio::test]
async fn a_takeover_waits_for_a_claim_in_flight_and_ends_the_claims_of_the_last_holder() {
    let db = Db::fresh().await;
    db.accept(2).await;
    let last = db.holder().await;
    // A claim just before its commit: it holds key-share locks on the two rows that it proves.
    let mut claim = db.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM worker w JOIN host h ON h.holder = w.id WHERE w.id = $1 FOR KEY SHARE")
        .bind(last.worker.uuid())
        .execute(&mut *claim)
        .await
        .unwrap();
    let dead = db.heartbeat(&last).await;
    let next = worker(&db, &last.host).await;
    let (store, host) = (db.another_store(), last.host.clone());
    let takeover = tokio::spawn(async move {
        let offer = HostOffer { id: &host, url: "http://127.0.0.1:11434", slots: 1, ttl: TTL };
        store.take_host(next, &offer, &[dead]).await.unwrap()
    });
    eventually("the takeover to wait for the claim", async || {
        let waiting: i64 = db.value("SELECT count(*) FROM pg_locks WHERE NOT granted").await;
        if waiting > 0 { Ok(()) } else { Err("nobody waits".to_owned()) }
    })
    .await;
    claim.commit().await.unwrap();
    assert!(takeover.await.unwrap().is_some());
    assert_eq!(db.claim(&last, 2).await.len(), 0, "the last holder claims no more");
}

#[tokio::test]
async fn a_renewal_keeps_row_and_host_and_finds_out_which_is_lost() {
    let db = Db::fresh().await;
    let holder = db.holder().await;
    db.run("UPDATE worker SET renewed_at = now() - interval '15 seconds'").await;
    db.run("UPDATE host SET renewed_at = now() - interval '15 seconds'").await;
    let renewal = db.store.renew_worker(holder.worker, Some(&holder)).await.unwrap();
    assert!(renewal.lives && renewal.holds_host);
    let stale: i64 = db
        .value(
            "SELECT (SELECT count(*) FROM worker WHERE renewed_at < now() - interval '5 seconds')
                     + (SELECT count(*) FROM host WHERE renewed_at < now() - interval '5 seconds')",
        )
        .await;
    assert_eq!(stale, 0);

    let next = db.holder().await;
    let renewal = db.store.renew_worker(holder.worker, Some(&holder)).await.unwrap();
    assert!(renewal.lives && !renewal.holds_host, "the host is another's");
    assert!(
        !db.store.renew_worker(next.worker, None).await.unwrap().holds_host,
        "and is not renewed unasked"
    );

    db.rescue_from(&holder).await;
    let renewal = db.store.renew_worker(holder.worker, Some(&holder)).await.unwrap();
    assert!(!renewal.lives && !renewal.holds_host);
}

#[tokio::test]
async fn a_new_holder_sees_what_live_workers_still_run_on_its_host() {
    let db = Db::fresh().await;
    db.accept(3).await;
    let last = db.holder().await;
    let begun = db.start(&last).await;
    let _held = db.claim(&last, 1).await.pop().unwrap().lease;
    let elsewhere = db.holder_of("another-host").await;
    db.start(&elsewhere).await;
    let next = db.holder().await;
    assert_eq!(db.store.foreign_leases(&next, &[]).await.unwrap(), 2, "begun or not, and on this host alone");
    db.settle(&[(begun, success())]).await.unwrap();
    assert_eq!(db.store.foreign_leases(&next, &[]).await.unwrap(), 1);
    let dead = db.heartbeat(&last).await;
    assert_eq!(db.store.foreign_leases(&next, &[dead]).await.unwrap(), 0, "the dead run nothing");
}

#[tokio::test]
async fn a_worker_finds_the_leases_that_it_never_heard_of() {
    let db = Db::fresh().await;
    let jobs = db.accept(2).await;
    let (holder, other) = (db.holder().await, db.holder_of("another-host").await);
    db.claim(&other, 1).await;
    drop(db.claim(&holder, 1).await);
    let own = db.store.own_leases(holder.worker).await.unwrap();
    assert_eq!(own.iter().map(|own| own.lease.job_id).collect::<Vec<_>>(), jobs[1..]);
    assert_eq!(own[0].model_label, LOAD_KEY);
}

#[tokio::test]
async fn a_lease_whose_request_is_gone_is_dropped_without_a_trace_and_no_other() {
    let db = Db::fresh().await;
    let jobs = db.accept(3).await;
    let (holder, other) = (db.holder().await, db.holder_of("another-host").await);
    let claimed = db.claim(&holder, 2).await;
    db.claim(&other, 1).await;
    db.run(&format!("DELETE FROM job WHERE id = '{}' OR id = '{}'", jobs[0].uuid(), jobs[2].uuid())).await;
    assert_eq!(db.store.drop_leases_without_request(holder.worker).await.unwrap(), [jobs[0]]);
    assert_eq!(db.values::<JobId>("SELECT job_id FROM job_lease ORDER BY 1").await, jobs[1..]);
    let [gone, mine] = claimed.try_into().unwrap();
    let hand_back = || Exit::HandBack { reason: reason() };
    let settled = db.settle(&[(gone.lease, hand_back()), (mine.lease, hand_back())]).await.unwrap();
    assert_eq!(settled, [Settled::Stale, Settled::Into(JobState::Queued)]);
}

fn model(name: &str, completes: bool) -> PublishedModel {
    PublishedModel { canonical: format!("{name}:latest"), label: name.to_owned(), completes }
}

#[tokio::test]
async fn a_publication_replaces_the_one_before_and_only_the_holder_publishes() {
    let db = Db::fresh().await;
    let last = db.holder().await;
    assert!(db.store.publish_models(&last, &[model("a", true), model("b", true)]).await.unwrap());
    assert!(db.store.publish_models(&last, &[model("b", false), model("c", true)]).await.unwrap());
    let said = "SELECT string_agg(canonical || ' ' || completes, ', ' ORDER BY canonical) FROM host_model";
    assert_eq!(db.value::<String>(said).await, "b:latest false, c:latest true");

    let next = db.holder().await;
    assert!(!db.store.publish_models(&last, &[model("d", true)]).await.unwrap());
    db.store.note_unreachable(&last).await.unwrap();
    let known = "SELECT reachable AND published_at IS NOT NULL FROM host";
    assert!(db.value::<bool>(known).await, "nor does the last holder call it away");
    db.store.note_unreachable(&next).await.unwrap();
    assert!(!db.value::<bool>(known).await);
    assert_eq!(db.value::<String>(said).await, "b:latest false, c:latest true", "what was published stays");
}
