//! A cancel finds its job in any room and is never lost. Every exit from a lease honours it, except a success.

use std::{sync::Arc, time::Duration};

use foreman_store::{Begin, Cancelling, ClientId, Exit, Holder, JobId, JobState, Phase, Settled};
use foreman_tests::{Db, reason, success};

/// Jobs per round and rounds per race, so that each race has a thousand cancels.
const JOBS: usize = 25;
const ROUNDS: usize = 40;

/// Lets `mover` move jobs while each of them is cancelled, again and again. Proves that no cancel was lost: in the
/// end each job is cancelled, unless it had succeeded first.
async fn race(prepare: impl AsyncFn(&Db, &Holder, &[JobId]), mover: impl AsyncFn(&Db, &Holder)) {
    let db = Arc::new(Db::fresh().await);
    let (mut by_us, mut asked, mut ended) = (0, 0, 0);
    for round in 0..ROUNDS {
        let jobs = db.accept(JOBS).await;
        let holder = db.holder().await;
        prepare(&db, &holder, &jobs).await;
        // Half of the rounds cancel one by one, the other half cancel all in one call.
        let pieces = if round % 2 == 0 { 1 } else { JOBS };
        let cancels = jobs.chunks(pieces).map(|piece| {
            let (db, piece) =
                (Arc::clone(&db), piece.iter().map(|&job| (db.client, job)).collect::<Vec<_>>());
            tokio::spawn(async move {
                let answers = db.store.cancel_all(&piece, None).await.unwrap();
                piece.into_iter().map(|(_, job)| job).zip(answers).collect::<Vec<_>>()
            })
        });
        let cancels: Vec<_> = cancels.collect();
        mover(&db, &holder).await;
        let mut answers = Vec::new();
        for cancel in cancels {
            answers.extend(cancel.await.unwrap());
        }
        // Every job that is still leased leaves its lease by an exit that would keep it alive.
        for own in db.store.own_leases(holder.worker).await.unwrap() {
            let settled = db.settle(&[(own.lease, Exit::HandBack { reason: reason() })]).await.unwrap();
            assert_eq!(settled, [Settled::Into(JobState::Cancelled)]);
        }
        for (job, answer) in answers {
            let room = db.room(job).await;
            match answer {
                Cancelling::Cancelled => by_us += 1,
                Cancelling::Asked => asked += 1,
                Cancelling::Ended => ended += 1,
                Cancelling::Missing | Cancelling::Adopted => panic!("{job} was there all the time"),
            }
            let may_have_succeeded = matches!(answer, Cancelling::Asked | Cancelling::Ended);
            assert!(
                room == "cancelled" || (room == "done" && may_have_succeeded),
                "{answer:?} and then {room}"
            );
            assert_eq!(db.history(job).await.last(), Some(&room));
        }
    }
    assert_eq!(by_us + asked + ended, JOBS * ROUNDS);
    db.every_job_has_one_room().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_that_races_with_claims_is_not_lost() {
    race(async |_, _, _| {}, async |db, holder| while !db.claim(holder, 3).await.is_empty() {}).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_that_races_with_settles_is_not_lost() {
    let hold = async |db: &Db, holder: &Holder, _: &[JobId]| {
        let claimed = db.claim(holder, JOBS).await;
        let beginnings: Vec<_> = claimed.iter().map(|claimed| (&claimed.lease, Phase::Working)).collect();
        db.store.begin(&beginnings).await.unwrap();
    };
    let settle = async |db: &Db, holder: &Holder| {
        let own = db.store.own_leases(holder.worker).await.unwrap();
        for (nth, own) in own.into_iter().enumerate() {
            let exit = match nth % 4 {
                0 => success(),
                1 => Exit::HandBack { reason: reason() },
                2 => Exit::Retry { reason: reason(), wait: Duration::ZERO },
                _ => Exit::Retry { reason: reason(), wait: Duration::from_secs(60) },
            };
            db.settle(&[(own.lease, exit)]).await.unwrap();
        }
    };
    race(hold, settle).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_that_races_with_a_rescue_is_not_lost() {
    let hold = async |db: &Db, holder: &Holder, _: &[JobId]| {
        let claimed = db.claim(holder, JOBS).await;
        let beginnings: Vec<_> =
            claimed.iter().step_by(2).map(|claimed| (&claimed.lease, Phase::Loading)).collect();
        db.store.begin(&beginnings).await.unwrap();
    };
    let rescue = async |db: &Db, holder: &Holder| {
        db.rescue_from(holder).await;
        db.store.rescue(&[]).await.unwrap();
    };
    race(hold, rescue).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_that_races_with_promotion_is_not_lost() {
    let wait = async |db: &Db, holder: &Holder, _: &[JobId]| {
        let claimed = db.claim(holder, JOBS).await;
        let exits: Vec<_> = claimed
            .into_iter()
            .map(|claimed| (claimed.lease, Exit::Retry { reason: reason(), wait: Duration::ZERO }))
            .collect();
        db.settle(&exits).await.unwrap();
    };
    race(wait, async |db, _| while db.store.promote(3).await.unwrap().0 > 0 {}).await;
}

#[tokio::test]
async fn every_exit_but_a_success_becomes_a_cancel() {
    let db = Db::fresh().await;
    let exits: [fn() -> Exit; 6] = [
        success,
        || Exit::Failed(reason()),
        || Exit::Retry { reason: reason(), wait: Duration::from_secs(1) },
        || Exit::HandBack { reason: reason() },
        || Exit::Cancelled,
        || Exit::Expired,
    ];
    for (nth, exit) in exits.into_iter().enumerate() {
        let job = db.accept(1).await[0];
        let holder = db.holder().await;
        let lease =
            if nth == 0 { db.start(&holder).await } else { db.claim(&holder, 1).await.remove(0).lease };
        assert_eq!(db.store.cancel(db.client, job).await.unwrap(), Cancelling::Asked);
        assert_eq!(db.store.cancelled_leases(holder.worker).await.unwrap(), [lease.no]);
        let end = if nth == 0 { JobState::Done } else { JobState::Cancelled };
        if nth > 0 {
            assert_eq!(db.store.begin(&[(&lease, Phase::Loading)]).await.unwrap(), [Begin::Cancelled]);
        }
        assert_eq!(db.settle(&[(lease, exit())]).await.unwrap(), [Settled::Into(end)]);
        assert_eq!(db.room(job).await, end.as_str());
        assert_eq!(db.store.cancel(db.client, job).await.unwrap(), Cancelling::Ended);
    }
    let untrue =
        "SELECT count(*) FROM job_done WHERE state = 'cancelled' AND (failures > 0 OR error IS NOT NULL)";
    assert_eq!(db.value::<i64>(untrue).await, 0, "what was cancelled has not failed");
    db.every_job_has_one_room().await;
}

#[tokio::test]
async fn nobody_cancels_the_job_of_another() {
    let db = Db::fresh().await;
    let [ready, leased] = db.accept(2).await.try_into().unwrap();
    let stranger = ClientId::generate();
    assert_eq!(db.store.cancel(stranger, ready).await.unwrap(), Cancelling::Missing);
    db.claim(&db.holder().await, 2).await;
    assert_eq!(db.store.cancel(stranger, leased).await.unwrap(), Cancelling::Missing);
    assert!(!db.value::<bool>("SELECT bool_or(cancel) FROM job_lease").await);
    assert_eq!(db.store.cancel(db.client, JobId::generate()).await.unwrap(), Cancelling::Missing);
}

#[tokio::test]
async fn many_are_cancelled_at_once_and_each_is_answered_in_its_place() {
    let db = Db::fresh().await;
    let holder = db.holder().await;
    let [ended, leased, waiting] = db.accept(3).await.try_into().unwrap();
    let lease = db.start(&holder).await;
    db.settle(&[(lease, success())]).await.unwrap();
    let lease = db.start(&holder).await;
    let ours = |job| (db.client, job);
    let stranger = (ClientId::generate(), waiting);
    let asked = [ours(ended), ours(JobId::generate()), ours(leased), stranger, ours(waiting), ours(waiting)];
    use Cancelling::{Asked, Cancelled, Ended, Missing};
    let answers = db.store.cancel_all(&asked, None).await.unwrap();
    assert_eq!(answers, [Ended, Missing, Asked, Missing, Cancelled, Cancelled]);
    assert_eq!(db.store.cancelled_leases(holder.worker).await.unwrap(), [lease.no]);
    assert_eq!(db.store.cancel_all(&[], None).await.unwrap(), []);

    let many = db.accept(1_200).await;
    let many: Vec<_> = many.into_iter().map(ours).collect();
    assert!(db.store.cancel_all(&many, None).await.unwrap().iter().all(|&answer| answer == Cancelled));
    db.every_job_has_one_room().await;
}

/// Two batches with the same jobs in opposite orders lock their rows in one order.
#[tokio::test(flavor = "multi_thread")]
async fn two_that_cancel_the_same_jobs_do_not_deadlock() {
    let db = Db::fresh().await;
    let other = db.another_store();
    for _ in 0..20 {
        let jobs: Vec<_> = db.accept(200).await.into_iter().map(|job| (db.client, job)).collect();
        let backwards: Vec<_> = jobs.iter().copied().rev().collect();
        let (one, another) =
            tokio::join!(db.store.cancel_all(&jobs, None), other.cancel_all(&backwards, None));
        let cancelled = |answers: Vec<Cancelling>| {
            answers.iter().filter(|&&answer| answer == Cancelling::Cancelled).count()
        };
        assert_eq!(cancelled(one.unwrap()) + cancelled(another.unwrap()), 200);
    }
}
