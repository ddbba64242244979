//! A job stands in exactly one room, and a move and its outbox row commit together.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use foreman_store::{Exit, JobId, Phase};
use foreman_tests::{Db, eventually, random, reason, success};
use rand::RngExt;

/// Moves jobs from room to room without end: ready, lease, scheduled, ready.
async fn move_about(db: Arc<Db>, stop: Arc<AtomicBool>) {
    let holder = db.holder().await;
    while !stop.load(Ordering::Relaxed) {
        let claimed = db.claim(&holder, 10).await;
        let back = |claimed: foreman_store::Claimed| {
            (claimed.lease, Exit::Retry { reason: reason(), wait: Duration::ZERO })
        };
        let exits: Vec<_> = claimed.into_iter().map(back).collect();
        db.settle(&exits).await.unwrap();
        db.store.promote(10).await.unwrap();
    }
}

/// Reads the rooms one after the other, which nobody should do.
async fn is_in_no_room(db: &Db, job: JobId) -> bool {
    for room in ["job_ready", "job_scheduled", "job_lease", "job_done"] {
        let id = job.uuid();
        if db.value::<bool>(&format!("SELECT EXISTS (SELECT FROM {room} WHERE job_id = '{id}')")).await {
            return false;
        }
    }
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn one_statement_sees_every_job_in_one_room_where_several_lose_it() {
    let db = Arc::new(Db::fresh().await);
    let jobs = db.accept(4).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mover = tokio::spawn(move_about(Arc::clone(&db), Arc::clone(&stop)));
    let (mut lost, mut looked) = (0, 0);
    // The careless reader proves that the interleaving really happened.
    eventually("a careless reader that has often lost a job", async || {
        looked += 1;
        lost += usize::from(is_in_no_room(&db, jobs[looked % jobs.len()]).await);
        db.every_job_has_one_room().await;
        if lost >= 10 && looked >= 300 { Ok(()) } else { Err(format!("{lost} of {looked} looks")) }
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    mover.await.unwrap();
}

#[tokio::test]
async fn no_move_commits_without_its_outbox_row() {
    let db = Db::fresh().await;
    let [ready, late, held, started, lost] = db.accept(5).await.try_into().unwrap();
    let holder = db.holder().await;
    // By age, only the third to the fifth job are to be leased.
    db.run(&format!(
        "UPDATE job_ready SET load_key = 'x' WHERE job_id IN ('{}', '{}')",
        ready.uuid(),
        late.uuid()
    ))
    .await;
    db.run(&format!("UPDATE job_ready SET expires_at = now() WHERE job_id = '{}'", late.uuid())).await;
    let [held_lease, started_lease, lost_lease] = db.claim(&holder, 3).await.try_into().unwrap();
    db.store
        .begin(&[(&started_lease.lease, Phase::Working), (&lost_lease.lease, Phase::Loading)])
        .await
        .unwrap();
    db.run(&format!("UPDATE job_lease SET worker_id = gen_random_uuid() WHERE job_id = '{}'", lost.uuid()))
        .await;
    db.run(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'the test refuses'; END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON outbox EXECUTE FUNCTION refuse()",
    )
    .await;

    db.store.accept(&[db.new_job()]).await.unwrap_err();
    db.store.cancel(db.client, ready).await.unwrap_err();
    db.store.expire(10).await.unwrap_err();
    db.store.begin(&[(&held_lease.lease, Phase::Loading)]).await.unwrap_err();
    db.settle(&[(started_lease.lease, success())]).await.unwrap_err();
    db.store.rescue(&[]).await.unwrap_err();

    assert_eq!(db.value::<i64>("SELECT count(*) FROM job").await, 5);
    for (job, room) in
        [(ready, "ready"), (late, "ready"), (held, "lease"), (started, "lease"), (lost, "lease")]
    {
        assert_eq!(db.room(job).await, room);
    }
    let phase = format!("SELECT phase FROM job_lease WHERE job_id = '{}'", held.uuid());
    assert_eq!(db.value::<String>(&phase).await, "held");
    db.every_job_has_one_room().await;
}

#[tokio::test]
async fn whatever_happens_attempts_never_fall_and_numbers_never_repeat() {
    let db = Db::fresh().await;
    let jobs = db.accept(30).await;
    let mut holder = db.holder().await;
    let mut random = random();
    let mut attempts = vec![0; jobs.len()];
    for _ in 0..150 {
        let mut claimed = db.claim(&holder, random.random_range(1..6)).await;
        for one in &claimed {
            let phases = [None, Some(Phase::Loading), Some(Phase::Working)];
            if let Some(phase) = phases[random.random_range(0..3)] {
                db.store.begin(&[(&one.lease, phase)]).await.unwrap();
            }
        }
        for one in &claimed {
            let index = jobs.iter().position(|&job| job == one.lease.job_id).unwrap();
            assert_eq!(one.attempt, attempts[index] + 1, "claims are counted one by one");
            attempts[index] = one.attempt;
        }
        // One worker dies with its leases. The others end their leases by every exit that does not end the job.
        if random.random_bool(0.1) {
            db.rescue_from(&holder).await;
            holder = db.holder().await;
        } else {
            let exit = |claimed: foreman_store::Claimed| {
                let exit = match random.random_bool(0.5) {
                    true => Exit::Retry { reason: reason(), wait: Duration::ZERO },
                    false => Exit::HandBack { reason: reason() },
                };
                (claimed.lease, exit)
            };
            let exits: Vec<_> = claimed.drain(..).map(exit).collect();
            db.settle(&exits).await.unwrap();
            db.store.promote(100).await.unwrap();
        }
    }
    for &job in &jobs {
        db.store.cancel(db.client, job).await.unwrap();
        let history = db.history(job).await;
        assert!(matches!(history.last().unwrap().as_str(), "cancelled" | "failed"), "{history:?}");
        assert!(history.iter().filter(|state| *state == "cancelled" || *state == "failed").count() == 1);
    }
    let numbers = "SELECT count(*) FROM job_done d WHERE d.seq <> (SELECT max(o.seq) FROM outbox o WHERE o.job_id = d.job_id)";
    assert_eq!(db.value::<i64>(numbers).await, 0, "the end has the last number");
    db.every_job_has_one_room().await;
    db.every_end_is_counted_once().await;
}
