//! What the schema guarantees by itself, read from Postgres' own catalogue.

use foreman_store::{ConnectOptions, MigrateError, Store, schema_version_needed};
use foreman_tests::{Cluster, Db};

/// The tables that every job passes through.
const HOT: &str = "('job_ready', 'job_scheduled', 'job_lease', 'outbox', 'webhook_delivery')";

#[tokio::test]
async fn migrate_bounds_idle_transactions_in_a_restored_database_too() {
    let db = Db::fresh().await;
    let idle = "SELECT setting FROM pg_settings WHERE name = 'idle_in_transaction_session_timeout'";
    // A copy, like a restored dump, has the schema but not the settings of the role.
    assert_eq!(db.value::<String>(idle).await, "0");
    db.store.migrate().await.unwrap();
    let after = sqlx::PgPool::connect(db.url()).await.unwrap();
    assert_eq!(sqlx::query_scalar::<_, String>(idle).fetch_one(&after).await.unwrap(), "5000");
}

#[tokio::test(flavor = "multi_thread")]
async fn migrate_is_safe_twice_and_from_two_places() {
    let db = Db::fresh().await;
    sqlx::raw_sql("CREATE DATABASE bare").execute(&db.pool).await.unwrap();
    let bare = db.url().replace(db.name(), "bare");
    let place = || Store::new(ConnectOptions::new(&bare, None, 2, false).unwrap());
    let (one, another) = (place(), place());
    assert_eq!(one.schema_version().await.unwrap(), None);
    let (first, second) = tokio::join!(one.migrate(), another.migrate());
    first.unwrap();
    second.unwrap();
    one.migrate().await.unwrap();
    assert_eq!(one.schema_version().await.unwrap(), Some(schema_version_needed()));
    assert!(one.partition_days_ahead().await.unwrap() >= 14);
}

#[tokio::test]
async fn a_migration_of_a_hot_table_gives_way_to_a_reader_and_can_be_tried_again() {
    let db = Db::fresh().await;
    db.run(
        "DELETE FROM _sqlx_migrations WHERE version = 6; DROP TABLE api_process;
         ALTER TABLE worker DROP COLUMN stream_url; ALTER TABLE job DROP COLUMN api_id",
    )
    .await;
    let mut backup = db.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM job").execute(&mut *backup).await.unwrap();
    let busy = db.store.migrate().await;
    assert!(matches!(busy, Err(MigrateError::TablesBusy)), "{busy:?}");
    backup.rollback().await.unwrap();
    db.store.migrate().await.unwrap();
    assert_eq!(db.store.schema_version().await.unwrap(), Some(schema_version_needed()));
}

#[tokio::test]
async fn a_store_says_what_keeps_a_process_from_being_ready_and_how_to_mend_it() {
    let db = Db::unmigrated(Cluster::shared().await).await;
    let failing = async || -> Vec<(&str, String)> {
        let conditions = db.store.readiness().await.into_iter();
        conditions.filter_map(|(name, condition)| Some((name, condition.err()?))).collect()
    };
    let no_schema = "the database has no schema of Foreman's; run `foreman migrate`";
    assert_eq!(db.store.can_be_used().await, Err(no_schema.to_owned()));
    assert_eq!(failing().await, [("schema", no_schema.to_owned())]);

    db.store.migrate().await.unwrap();
    assert_eq!(db.store.can_be_used().await, Ok(()));
    assert_eq!(failing().await, []);

    db.run("UPDATE _sqlx_migrations SET success = false WHERE version > 1").await;
    let old = failing().await;
    assert!(old[0].1.starts_with("the schema is at version 1 and must be at "), "{old:?}");

    let nowhere = ConnectOptions::new("postgres://nobody@127.0.0.1:1/none", None, 2, false).unwrap();
    let away = Store::new(nowhere).readiness().await;
    assert!(matches!(&away[..], [("database", Err(_))]), "{away:?}");
}

#[tokio::test]
async fn nothing_in_the_schema_makes_writers_wait_for_each_other() {
    let db = Db::fresh().await;
    let keys = "SELECT conname::text FROM pg_constraint WHERE contype = 'f'";
    assert_eq!(db.values::<String>(keys).await, [""; 0], "a foreign key locks the row it names");
    let triggers = "SELECT tgname::text FROM pg_trigger WHERE NOT tgisinternal";
    assert_eq!(db.values::<String>(triggers).await, [""; 0], "a trigger is where counters are kept by hand");
    let unlogged = "SELECT relname::text FROM pg_class WHERE relpersistence = 'u'";
    assert_eq!(db.values::<String>(unlogged).await, [""; 0], "an unlogged table is empty after a crash");
}

#[tokio::test]
async fn hot_tables_are_vacuumed_by_their_own_measure() {
    let db = Db::fresh().await;
    let careless = format!(
        "SELECT relname::text FROM pg_class LEFT JOIN LATERAL (
             SELECT jsonb_object_agg(option_name, option_value::float8) AS set FROM pg_options_to_table(reloptions)
         ) AS options ON true
         WHERE relname IN {HOT} AND relkind = 'r'
           AND NOT coalesce((set->>'autovacuum_vacuum_scale_factor')::float8 = 0
                        AND (set->>'autovacuum_vacuum_threshold')::float8 > 0
                        AND (set->>'autovacuum_vacuum_cost_delay')::float8 = 0
                        AND (set->>'fillfactor')::float8 <= 70, false)"
    );
    assert_eq!(db.values::<String>(&careless).await, [""; 0]);
}

#[tokio::test]
async fn bodies_are_kept_as_text_and_nothing_as_jsonb() {
    let db = Db::fresh().await;
    let jsonb = "SELECT table_name || '.' || column_name FROM information_schema.columns
                 WHERE table_schema = 'public' AND data_type IN ('json', 'jsonb')";
    assert_eq!(db.values::<String>(jsonb).await, [""; 0]);
}

#[tokio::test]
async fn the_schema_refuses_what_no_transition_may_do() {
    let db = Db::fresh().await;
    let job = db.accept(1).await[0].uuid();
    let forbidden = [
        format!("INSERT INTO outbox (job_id, seq, attempt, state, previous_state, at) VALUES ('{job}', 2, 1, 'done', 'queued', now())"),
        format!("INSERT INTO outbox (job_id, seq, attempt, state, previous_state, at) VALUES ('{job}', 2, 0, 'queued', '', now())"),
        format!(
            "INSERT INTO job_done (job_id, client_id, state, seq, attempt, failures, rescues, eligible_at, completed_at)
             VALUES ('{job}', '{job}', 'done', 2, 1, 0, 0, now(), now())"
        ),
        format!(
            "INSERT INTO job_done (job_id, client_id, state, seq, attempt, failures, rescues, eligible_at, completed_at)
             VALUES ('{job}', '{job}', 'failed', 2, 1, 1, 0, now(), now())"
        ),
        "UPDATE job_ready SET attempt = -1".to_owned(),
    ];
    for statement in forbidden {
        let refused =
            sqlx::query(sqlx::AssertSqlSafe(statement.clone())).execute(&db.pool).await.unwrap_err();
        let check_violation =
            refused.as_database_error().and_then(|error| error.code()).unwrap().into_owned();
        assert_eq!(check_violation, "23514", "{statement}");
    }
}
