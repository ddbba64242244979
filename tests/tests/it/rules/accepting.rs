//! Acceptance: one job per idempotency key, however many callers come at the same moment, and every request stored
//! unchanged.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta};
use foreman_store::{AcceptError, Acceptance, IdempotencyKey, JobRequest, NewJob, StoreError};
use foreman_tests::{Db, LOAD_KEY, eventually};
use sqlx::{Postgres, Transaction};

fn keyed(job: NewJob, key: &str, body: u8) -> NewJob {
    NewJob { idempotency: Some(IdempotencyKey { key: key.to_owned(), body_digest: [body; 32] }), ..job }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_from_many_callers_at_once_is_one_job() {
    let db = Arc::new(Db::fresh().await);
    let other = db.another_store();
    for round in 0..10 {
        let callers: Vec<_> = (0..32)
            .map(|nth| {
                let store = if nth % 2 == 0 { db.store.clone() } else { other.clone() };
                let job = keyed(db.new_job(), &format!("key {round}"), 1);
                tokio::spawn(async move { store.accept(&[job]).await })
            })
            .collect();
        let mut answers = Vec::new();
        for caller in callers {
            answers.push(caller.await.unwrap().unwrap()[0]);
        }
        let accepted = answers.iter().find_map(|answer| match answer {
            Acceptance::Accepted(job) => Some(*job),
            _ => None,
        });
        let winner = accepted.unwrap();
        assert_eq!(answers.iter().filter(|answer| **answer == Acceptance::Accepted(winner)).count(), 1);
        assert_eq!(answers.iter().filter(|answer| **answer == Acceptance::Replayed(winner)).count(), 31);
    }
    assert_eq!(db.value::<i64>("SELECT count(*) FROM job").await, 10);
    db.every_job_has_one_room().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_with_the_same_keys_in_other_orders_do_not_deadlock() {
    let db = Db::fresh().await;
    for round in 0..20 {
        let batch = || -> Vec<NewJob> {
            (0..50).map(|nth| keyed(db.new_job(), &format!("{round} {nth}"), 1)).collect()
        };
        let (up, mut down) = (batch(), batch());
        down.reverse();
        let (up, down) = tokio::join!(db.store.accept(&up), db.store.accept(&down));
        let accepted = |answer: &Acceptance| matches!(answer, Acceptance::Accepted(_));
        assert_eq!(up.unwrap().into_iter().chain(down.unwrap()).filter(accepted).count(), 50);
    }
}

#[tokio::test]
async fn a_key_twice_in_one_batch_is_the_first_of_them() {
    let db = Db::fresh().await;
    let batch =
        [keyed(db.new_job(), "k", 1), keyed(db.new_job(), "k", 1), keyed(db.new_job(), "k", 2), db.new_job()];
    assert_eq!(
        db.store.accept(&batch).await.unwrap(),
        [
            Acceptance::Accepted(batch[0].id),
            Acceptance::Replayed(batch[0].id),
            Acceptance::KeyReused,
            Acceptance::Accepted(batch[3].id)
        ]
    );
    let request = JobRequest { client: foreman_store::ClientId::generate(), ..db.request() };
    let elsewhere = keyed(db.job(request), "k", 2);
    let id = elsewhere.id;
    assert_eq!(
        db.store.accept(&[elsewhere]).await.unwrap(),
        [Acceptance::Accepted(id)],
        "a key is its client's own"
    );
}

#[tokio::test]
async fn a_key_is_free_again_after_a_day() {
    let db = Db::fresh().await;
    let first = keyed(db.new_job(), "k", 1);
    db.accept_all(std::slice::from_ref(&first)).await;
    let before = db.store_at(TimeDelta::hours(23)).await;
    let again = keyed(db.new_job_by(&before), "k", 1);
    assert_eq!(before.accept(&[again]).await.unwrap(), [Acceptance::Replayed(first.id)]);
    let after = db.store_at(TimeDelta::hours(25)).await;
    let anew = keyed(db.new_job_by(&after), "k", 2);
    let id = anew.id;
    assert_eq!(after.accept(&[anew]).await.unwrap(), [Acceptance::Accepted(id)]);
    let pruned = after.prune_idempotency_keys(DateTime::UNIX_EPOCH, 10).await.unwrap();
    assert_eq!(pruned.rows, 0, "it is the new job's now");
}

/// A transaction that holds up every flush.
async fn locked_queue(db: &Db) -> Transaction<'static, Postgres> {
    let mut lock = db.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE job_ready").execute(&mut *lock).await.unwrap();
    lock
}

async fn a_flush_waits(db: &Db) {
    let waiting = "SELECT count(*) FROM pg_stat_activity
                   WHERE datname = current_database() AND wait_event_type = 'Lock'";
    eventually("a flush that waits", async || {
        if db.value::<i64>(waiting).await > 0 { Ok(()) } else { Err("none does") }
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_was_lost_can_be_asked_for() {
    let db = Db::fresh().await;
    let (line, store) = db.store_behind_a_line(1).await;
    // This prepares the statement, so the next accept waits while it runs, not while it is prepared.
    store.accept(&[db.new_job()]).await.unwrap();
    let (jobs, lock) = ([db.new_job()], locked_queue(&db).await);
    let (accepted, ()) = tokio::join!(store.accept(&jobs), async {
        a_flush_waits(&db).await;
        line.fall_silent();
        lock.rollback().await.unwrap();
    });
    let Err(AcceptError::Unknown { flush, .. }) = accepted else { panic!("{accepted:?}") };
    let ids = [jobs[0].id];
    assert_eq!(db.store.look_up(&flush, &ids).await.unwrap(), Some(ids.to_vec()));
}

#[tokio::test]
async fn no_is_said_only_once_nothing_can_come_any_more() {
    let db = Db::fresh().await;
    let (line, store) = db.store_behind_a_line(1).await;
    // This prepares the statement, so the next accept waits while it runs, not while it is prepared.
    store.accept(&[db.new_job()]).await.unwrap();
    let (jobs, lock) = ([db.new_job()], locked_queue(&db).await);
    let (accepted, ()) = tokio::join!(store.accept(&jobs), async {
        a_flush_waits(&db).await;
        line.cut();
    });
    let Err(AcceptError::Unknown { flush, .. }) = accepted else { panic!("{accepted:?}") };
    let ids = [jobs[0].id];
    assert_eq!(db.store.look_up(&flush, &ids).await.unwrap(), None, "it is under way");
    let found = eventually("the end of the flush", async || {
        db.store.look_up(&flush, &ids).await.unwrap().ok_or("it is under way")
    })
    .await;
    assert_eq!(found, []);
    lock.rollback().await.unwrap();
    db.accept(1).await;
    assert_eq!(db.value::<i64>("SELECT count(*) FROM job").await, 2);
}

#[tokio::test]
async fn what_was_never_sent_is_known_not_to_be_accepted() {
    let db = Db::fresh().await;
    let (line, store) = db.store_behind_a_line(1).await;
    let own = store.on_own_connection();
    drop(line);
    let error = own.accept(&[db.new_job()]).await.unwrap_err();
    assert!(matches!(error, AcceptError::Not(StoreError::Unreached(_))), "{error:?}");
}

#[tokio::test]
async fn what_is_accepted_is_told_though_nobody_can_say_who_holds_another_key() {
    let db = Db::fresh().await;
    db.accept_all(&[keyed(db.new_job(), "k", 1)]).await;
    // From the commit of the flush on, the keys cannot be read any more.
    db.run(
        "CREATE FUNCTION hide() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN ALTER TABLE idempotency_key RENAME TO hidden; RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER hide AFTER INSERT ON job_ready DEFERRABLE INITIALLY DEFERRED
         FOR EACH ROW EXECUTE FUNCTION hide()",
    )
    .await;
    let batch = [db.new_job(), keyed(db.new_job(), "k", 1)];
    assert_eq!(
        db.store.accept(&batch).await.unwrap(),
        [Acceptance::Accepted(batch[0].id), Acceptance::OfferAgain]
    );
}

#[tokio::test]
async fn a_body_comes_out_byte_for_byte_escaped_nul_included() {
    let db = Db::fresh().await;
    let body =
        "{ \"model\":\"tiny-a\", \"z\":1, \"a\" :2, \"messages\":[{\"content\":\"\\u0000 \\ud83d ü\"}] }";
    let metadata = r#"{"b":1,"a":"\u0000"}"#;
    let job =
        db.job(JobRequest { body: body.to_owned(), metadata: Some(metadata.to_owned()), ..db.request() });
    db.accept_all(&[job, db.new_job()]).await;
    let holder = db.holder().await;
    let claimed = db.claim(&holder, 2).await;
    assert_eq!(claimed[0].body.as_deref(), Some(body));
    assert_eq!(db.value::<String>("SELECT metadata FROM job WHERE metadata IS NOT NULL").await, metadata);
}

#[tokio::test]
async fn a_value_that_postgres_refuses_refuses_its_batch_as_a_whole() {
    let db = Db::fresh().await;
    let refused = db.job(JobRequest { body: "\0".to_owned(), ..db.request() });
    let error = db.store.accept(&[db.new_job(), refused]).await.unwrap_err();
    assert!(matches!(error, AcceptError::Not(StoreError::BadData(_))), "{error:?}");
    assert_eq!(db.value::<i64>("SELECT count(*) FROM job").await, 0);
}

#[tokio::test]
async fn nothing_that_accepts_share_is_locked() {
    let db = Db::fresh().await;
    db.holder().await;
    db.accept(1).await;
    // Another transaction works on these rows and does not end.
    let mut elsewhere = db.pool.begin().await.unwrap();
    for table in [
        "job",
        "job_ready",
        "job_scheduled",
        "outbox",
        "client",
        "worker",
        "host",
        "host_model",
        "api_process",
        "webhook_lane",
    ] {
        let lock = format!("SELECT FROM {table} FOR UPDATE");
        sqlx::query(sqlx::AssertSqlSafe(lock)).execute(&mut *elsewhere).await.unwrap();
    }
    let impatient = db.impatient_store();
    impatient.accept(&[keyed(db.new_job(), "k", 1), db.new_job()]).await.unwrap();
    elsewhere.rollback().await.unwrap();
    assert_eq!(db.claim(&db.holder().await, 10).await[0].load_key, LOAD_KEY);
}
