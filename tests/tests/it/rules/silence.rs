//! Nobody waits for ever: neither on a silent line nor for a lock. And no server process works for ever for a client
//! that is gone.

use std::time::Duration;

use foreman_store::{AcceptError, ConnectOptions, Store, StoreError};
use foreman_tests::{Db, eventually};
use tokio::time::timeout;

use crate::pooled::pgbouncer::PgBouncer;

/// Long enough for a statement to be under way, and shorter than every deadline of the store.
const A_MOMENT: Duration = Duration::from_millis(200);

#[tokio::test]
async fn a_statement_without_an_answer_fails_and_its_connection_is_gone() {
    let db = Db::fresh().await;
    let (line, store) = db.store_behind_a_line(1).await;
    let own = store.on_own_connection();
    store.ping().await.unwrap();
    own.ping().await.unwrap();
    line.fall_silent();
    let (pooled, alone) = tokio::join!(store.ping(), own.ping());
    for answer in [pooled, alone] {
        let error = answer.unwrap_err();
        assert!(error.outcome_is_unknown(), "{error:?}");
    }
    // The next statements get other connections, at once.
    store.ping().await.unwrap();
    own.ping().await.unwrap();
}

#[tokio::test]
async fn whoever_gives_up_a_statement_gives_up_its_connection() {
    let db = Db::fresh().await;
    let (line, store) = db.store_behind_a_line(1).await;
    let own = store.on_own_connection();
    for handle in [&store, &own] {
        handle.ping().await.unwrap();
        line.fall_silent();
        timeout(A_MOMENT, handle.ping()).await.expect_err("a silent line answers nothing");
        handle.ping().await.expect("the place in the pool is free again");
    }
}

#[tokio::test]
async fn a_connection_that_falls_silent_between_its_statements_leaves_the_pool() {
    let db = Db::fresh().await;
    let (line, store) = db.store_behind_a_line(1).await;
    // Two units of work: one is rolled back, and the last statement of the other fails. The pings commit.
    for statement in ["SELECT 1", "SELECT 1 / 0"] {
        let mut conn = store.open_transaction().await.unwrap();
        let _answer = sqlx::query(statement).execute(&mut conn).await;
        line.fall_silent();
        drop(conn);
        store.ping().await.expect("the place in the pool is free again");
    }
}

#[tokio::test]
async fn postgres_ends_a_statement_and_a_wait_for_a_lock_before_we_hang_up() {
    let db = Db::fresh().await;
    let store = db.another_store();
    let mut locking = db.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE job_ready").execute(&mut *locking).await.unwrap();
    let (waits, works) = tokio::join!(async { store.accept(&[db.new_job()]).await.unwrap_err() }, async {
        let mut conn = store.open_transaction().await.unwrap();
        StoreError::from(sqlx::query("SELECT pg_sleep(60)").execute(&mut conn).await.unwrap_err())
    });
    assert!(matches!(waits, AcceptError::Not(StoreError::Contended(_))), "{waits:?}");
    assert!(matches!(works, StoreError::Unable(_)), "{works:?}");
    assert!(!works.outcome_is_unknown(), "Postgres itself says that nothing happened");
}

#[tokio::test]
async fn a_server_process_ends_when_its_client_hangs_up() {
    let db = Db::fresh().await;
    let store = db.another_store();
    let working = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%a long one%'
                   AND pid <> pg_backend_pid()";
    let mut conn = store.open_transaction().await.unwrap();
    // Only the disconnect of the client may end this statement.
    sqlx::query("SET LOCAL statement_timeout = 0").execute(&mut conn).await.unwrap();
    let sleep = sqlx::query("SELECT pg_sleep(600) /* a long one */");
    timeout(A_MOMENT, sleep.execute(&mut conn)).await.expect_err("it sleeps");
    drop(conn);
    eventually("the end of the server process", async || match db.value::<i64>(working).await {
        0 => Ok(()),
        left => Err(left),
    })
    .await;
}

#[tokio::test]
async fn every_connection_carries_the_deadlines_and_planner_settings() {
    let db = Db::fresh().await;
    let pooler = PgBouncer::start(&db);
    let pooled = Store::new(ConnectOptions::new(&pooler.url(&db), Some(db.url()), 2, true).unwrap());
    for (store, directly) in [(db.another_store(), true), (pooled, false)] {
        assert_eq!(setting(&store, "statement_timeout").await, "8s");
        assert_eq!(setting(&store, "lock_timeout").await, "3s");
        assert_eq!(setting(&store, "jit").await, "off");
        assert_eq!(setting(&store, "enable_seqscan").await, "off");
        if directly {
            assert_eq!(setting(&store, "tcp_keepalives_idle").await, "10");
            assert_eq!(setting(&store, "tcp_user_timeout").await, "20000");
            assert_eq!(setting(&store, "client_connection_check_interval").await, "2s");
        }
    }
}

async fn setting(store: &Store, name: &str) -> String {
    let mut conn = store.open_transaction().await.unwrap();
    sqlx::query_scalar("SELECT current_setting($1)").bind(name).fetch_one(&mut conn).await.unwrap()
}

#[tokio::test]
async fn what_is_sent_over_a_thin_line_has_the_time_that_it_needs() {
    let db = Db::fresh().await;
    let (line, store) = db.store_behind_a_line(1).await;
    store.ping().await.unwrap();
    // The transfer takes 12 s, which is longer than the deadline of a statement that carries nothing.
    line.throttle(1 << 20);
    let mut job = db.new_job();
    job.request.body = "x".repeat(12 << 20);
    store.accept(&[job]).await.unwrap();
}
