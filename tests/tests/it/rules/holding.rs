//! Every write by a holder proves its lease number.

use std::time::Duration;

use foreman_store::{Begin, Exit, JobState, Lease, LeaseNo, Phase, Settled};
use foreman_tests::{Db, copy_of, eventually, reason, success};

#[tokio::test]
async fn a_stale_worker_cannot_settle_a_reclaimed_job() {
    let db = Db::fresh().await;
    let job = db.accept(1).await[0];
    let paused = db.holder().await;
    let stale = db.start(&paused).await;
    db.rescue_from(&paused).await;
    let rescuer = db.holder().await;
    let fresh = db.start(&rescuer).await;

    assert_eq!(db.store.begin(&[(&stale, Phase::Working)]).await.unwrap(), [Begin::Stale]);
    assert_eq!(db.settle(&[(stale, success())]).await.unwrap(), [Settled::Stale]);
    assert_eq!(db.room(job).await, "lease");
    assert_eq!(db.settle(&[(fresh, success())]).await.unwrap(), [Settled::Into(JobState::Done)]);
    assert_eq!(
        db.history(job).await,
        ["queued", "loading", "working", "queued", "loading", "working", "done"]
    );
    db.every_job_has_one_room().await;
}

#[tokio::test]
async fn a_stale_outcome_beside_the_same_jobs_fresh_one_falls_out_alone() {
    let db = Db::fresh().await;
    db.accept(2).await;
    let holder = db.holder().await;
    let (job, bystander) = (db.start(&holder).await, db.start(&holder).await);
    let stale = Lease { job_id: job.job_id, no: LeaseNo(job.no.0 - 1_000) };
    assert_eq!(
        db.store.begin(&[(&stale, Phase::Working), (&job, Phase::Working)]).await.unwrap(),
        [Begin::Stale, Begin::Go]
    );
    let failure = Exit::Failed(reason());
    assert_eq!(
        db.settle(&[(stale, failure), (copy_of(&job), success()), (bystander, success())]).await.unwrap(),
        [Settled::Stale, Settled::Into(JobState::Done), Settled::Into(JobState::Done)]
    );
    assert_eq!(db.room(job.job_id).await, "done");
    db.every_job_has_one_room().await;
}

#[tokio::test]
async fn stale_members_of_a_batch_fall_out_one_by_one_and_the_rest_commits() {
    let db = Db::fresh().await;
    db.accept(5).await;
    let holder = db.holder().await;
    let mut leases = Vec::new();
    for _ in 0..5 {
        leases.push(db.start(&holder).await);
    }
    // One lease was settled under another number, one belongs to another worker, and one does not exist.
    db.run(&format!(
        "UPDATE job_lease SET lease_no = lease_no + 1000 WHERE job_id = '{}'",
        leases[1].job_id.uuid()
    ))
    .await;
    db.settle(&[(copy_of(&leases[3]), Exit::HandBack { reason: reason() })]).await.unwrap();
    let exits: Vec<_> = leases.iter().map(|lease| (copy_of(lease), success())).collect();

    let done = Settled::Into(JobState::Done);
    let settled = db.settle(&exits).await.unwrap();
    assert_eq!(settled, [done, Settled::Stale, done, Settled::Stale, done]);
    assert_eq!(db.value::<i64>("SELECT count(*) FROM artifact").await, 3);
    assert_eq!(db.value::<i64>("SELECT count(*) FROM outbox WHERE state = 'done'").await, 3);
    db.every_job_has_one_room().await;
}

#[tokio::test]
async fn a_settle_whose_answer_was_lost_is_a_success_and_is_not_repeated() {
    let db = Db::fresh().await;
    let job = db.accept(1).await[0];
    let holder = db.holder().await;
    let lease = db.start(&holder).await;
    assert_eq!(db.settle(&[(copy_of(&lease), success())]).await.unwrap(), [Settled::Into(JobState::Done)]);
    assert_eq!(db.settle(&[(lease, success())]).await.unwrap(), [Settled::Already]);
    assert_eq!(db.history(job).await, ["queued", "loading", "working", "done"]);
}

#[tokio::test]
async fn a_phase_whose_answer_was_lost_is_not_written_again() {
    let db = Db::fresh().await;
    let job = db.accept(1).await[0];
    let holder = db.holder().await;
    let lease = db.claim(&holder, 1).await.pop().unwrap().lease;
    for phase in [Phase::Loading, Phase::Loading, Phase::Working, Phase::Working, Phase::Loading] {
        assert_eq!(db.store.begin(&[(&lease, phase)]).await.unwrap(), [Begin::Go]);
    }
    assert_eq!(db.history(job).await, ["queued", "loading", "working"]);
}

#[tokio::test]
async fn letting_go_counts_what_it_says_and_no_more() {
    let db = Db::fresh().await;
    let job = db.accept(1).await[0];
    let holder = db.holder().await;
    let counted = "SELECT format('%s %s %s %s', attempt, failures, rescues, seq) FROM job_ready";
    // Held and handed back: outside, the job was queued all along.
    let held = db.claim(&holder, 1).await.pop().unwrap().lease;
    let back = || Exit::HandBack { reason: reason() };
    assert_eq!(db.settle(&[(held, back())]).await.unwrap(), [Settled::Into(JobState::Queued)]);
    assert_eq!(db.value::<String>(counted).await, "1 0 0 1");
    // Begun and handed back: the events show it, and no failure is counted.
    let lease = db.start(&holder).await;
    db.settle(&[(lease, back())]).await.unwrap();
    assert_eq!(db.value::<String>(counted).await, "2 0 0 4");
    // Retried: one failure, and the job waits.
    let lease = db.start(&holder).await;
    let retry = Exit::Retry { reason: reason(), wait: Duration::from_secs(10) };
    db.settle(&[(lease, retry)]).await.unwrap();
    assert_eq!(db.room(job).await, "scheduled");
    db.run("UPDATE job_scheduled SET due_at = due_at - interval '10 s'").await;
    assert_eq!(db.store.promote(10).await.unwrap(), (1, None));
    assert_eq!(db.value::<String>(counted).await, "3 1 0 7");
    // The event of the requeue gives the reason.
    let why = "SELECT error FROM outbox WHERE seq = 7 AND state = 'queued' AND previous_state = 'working'";
    assert_eq!(db.value::<String>(why).await, reason().error);
}

#[tokio::test]
async fn a_rescue_leaves_alone_what_is_being_settled() {
    let db = Db::fresh().await;
    let job = db.accept(1).await[0];
    let holder = db.holder().await;
    let lease = db.start(&holder).await;
    let mut settling = db.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM job_lease FOR UPDATE").execute(&mut *settling).await.unwrap();
    let dead = db.heartbeat(&holder).await;
    let rescued = db.impatient_store().rescue(&[dead]).await.unwrap();
    assert_eq!((rescued.workers, rescued.leases), (1, 0), "the worker is dead, its lease is busy");
    settling.rollback().await.unwrap();

    // The settle wrote nothing. The rescue finds the remaining lease, because it has no worker any more.
    assert_eq!(db.store.rescue(&[]).await.unwrap().leases, 1);
    assert_eq!(db.settle(&[(lease, success())]).await.unwrap(), [Settled::Stale]);
    assert_eq!(db.room(job).await, "ready");
}

#[tokio::test(flavor = "multi_thread")]
async fn settles_of_the_same_leases_in_any_order_never_deadlock() {
    let db = Db::fresh().await;
    let holder = db.holder().await;
    for _ in 0..20 {
        db.accept(50).await;
        let leases: Vec<Lease> =
            db.claim(&holder, 50).await.into_iter().map(|claimed| claimed.lease).collect();
        let exits = |leases: &mut dyn Iterator<Item = &Lease>| -> Vec<(Lease, Exit)> {
            leases.map(|lease| (copy_of(lease), Exit::Failed(reason()))).collect()
        };
        let (up, down) = (exits(&mut leases.iter()), exits(&mut leases.iter().rev()));
        let beginnings: Vec<_> = leases.iter().rev().map(|lease| (lease, Phase::Working)).collect();
        let (up, down, begun) = tokio::join!(db.settle(&up), db.settle(&down), db.store.begin(&beginnings));
        begun.unwrap();
        let settled = |outcome: &Settled| *outcome == Settled::Into(JobState::Failed);
        let both = up.unwrap().into_iter().chain(down.unwrap()).filter(settled).count();
        assert_eq!(both, 50, "each is settled once");
    }
    db.every_job_has_one_room().await;
}

#[tokio::test]
async fn a_claim_that_races_with_its_workers_burial_takes_nothing() {
    let db = Db::fresh().await;
    db.accept(1).await;
    let holder = db.holder().await;
    let mut rescue = db.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM worker FOR UPDATE").execute(&mut *rescue).await.unwrap();
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
    let bury = async {
        eventually("a claim that waits for the rescue", async || {
            if db.value::<i64>(waits).await == 1 { Ok(()) } else { Err("it does not wait") }
        })
        .await;
        sqlx::query("DELETE FROM worker").execute(&mut *rescue).await.unwrap();
        rescue.commit().await.unwrap();
    };
    let (claimed, ()) = tokio::join!(db.claim(&holder, 1), bury);
    assert!(claimed.is_empty());
}
