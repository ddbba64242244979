//! Broken on the way to Postgres, or in Postgres itself.

use std::fs;

use chrono::TimeDelta;
use foreman_tests::{Db, free_port};

use super::{House, doctor};

impl House {
    /// The URL of its database with another role, perhaps with a password.
    fn url_as(&self, role: &str) -> String {
        self.db.url().replace("//foreman@", &format!("//{role}@"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_is_down() {
    let house = House::sound().await;
    let nobody = format!("postgres://foreman@127.0.0.1:{}/foreman", free_port());
    let examined = house.examined(&[("DATABASE_URL", &nobody)]).await;
    examined.only_trouble("database", "Connection refused", "pg_isready -h 127.0.0.1");
    let left_out = examined.findings.iter().find(|finding| finding["check"] == "left_out").unwrap();
    assert!(left_out["what"].as_str().unwrap().contains("partitions"), "{left_out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_that_is_none() {
    let house = House::sound().await;
    house.examined(&[("DATABASE_URL", "mysql://x")]).await.only_trouble("database", "DATABASE_URL", "mend");
    let unescaped = "postgres://foreman:a/b#c@127.0.0.1:5432/foreman";
    let examined = house.examined(&[("DATABASE_URL", unescaped)]).await;
    examined.only_trouble("database", "%23 for #", "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password() {
    let house = House::sound().await;
    let role = format!("guarded_{}", house.db.name());
    house.db.run(&format!("CREATE ROLE {role} LOGIN PASSWORD 'right'")).await;
    // Everybody else goes on without one.
    let hba: String = house.db.value("SELECT current_setting('hba_file')").await;
    let before = fs::read_to_string(&hba).unwrap();
    fs::write(&hba, format!("host all {role} 127.0.0.1/32 scram-sha-256\n{before}")).unwrap();
    house.db.run("SELECT pg_reload_conf()").await;
    let url = house.url_as(&format!("{role}:wrong"));
    let examined = foreman_tests::eventually("Postgres to ask for a password", async || {
        let examined = house.examined(&[("DATABASE_URL", &url)]).await;
        if examined.checks("trouble") == ["database"] { Ok(examined) } else { Err(format!("{examined:?}")) }
    })
    .await;
    examined.only_trouble("database", "the password is wrong", "\\password");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_or_a_database_that_does_not_exist() {
    let house = House::sound().await;
    let examined = house.examined(&[("DATABASE_URL", &house.url_as("nobody_here"))]).await;
    examined.only_trouble("database", "nobody_here", "createuser");
    let elsewhere = house.db.url().replace(house.db.name(), "not_there");
    let examined = house.examined(&[("DATABASE_URL", &elsewhere)]).await;
    examined.only_trouble("database", "no such database", "createdb");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_without_fsync() {
    let house = House::sound().await;
    // The cluster that other tests share has none.
    let careless = Db::fresh().await;
    careless.store.migrate().await.unwrap();
    let examined = house.examined(&[("DATABASE_URL", careless.url())]).await;
    examined.only_trouble("durability", "fsync is off", "ALTER SYSTEM SET fsync = on");
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_that_do_not_wait() {
    let house = House::sound().await;
    house.db.run(&format!("ALTER DATABASE {} SET synchronous_commit = off", house.db.name())).await;
    house.examined(&[]).await.only_trouble(
        "durability",
        "synchronous_commit is off",
        "RESET synchronous_commit",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_in_another_encoding() {
    let house = House::sound().await;
    let name = format!("{}_latin", house.db.name());
    house.db.run(&format!("CREATE DATABASE {name} ENCODING LATIN1 TEMPLATE template0")).await;
    let url = house.db.url().replace(house.db.name(), &name);
    super::foreman(&["migrate"], &[("DATABASE_URL", &url)]).await;
    house.examined(&[("DATABASE_URL", &url)]).await.only_trouble("encoding", "LATIN1", "createdb -E UTF8");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_wrong() {
    let house = House::sound().await;
    // For a connection with these settings Postgres' clock stands half a minute ahead.
    let _skewed = house.db.skewed_store(TimeDelta::seconds(30)).await;
    let options = "options=-c%20search_path%3Dpublic,skew,pg_catalog%20-c%20skew.by%3D30s";
    let url = format!("{}?{options}", house.db.url());
    house.examined(&[("DATABASE_URL", &url)]).await.only_trouble("clock", "behind Postgres'", "set-ntp");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_is_never_ended() {
    let house = House::sound().await;
    let mut open = house.db.pool.begin().await.unwrap();
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut *open).await.unwrap();
    let examined = house.examined_with(&["--oldest-transaction", "0s"], &[]).await;
    examined.only_trouble("transactions", "idle in transaction", &format!("pg_terminate_backend({pid})"));
    assert_eq!(house.examined(&[]).await.code, 0, "it is not old yet");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_idle_in_transactions() {
    let house = House::sound().await;
    let name = house.db.name();
    house
        .db
        .run(&format!("ALTER ROLE foreman IN DATABASE {name} RESET idle_in_transaction_session_timeout"))
        .await;
    house.examined(&[]).await.only_trouble("idle_timeout", "without a bound", "foreman migrate");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_connections_than_postgres_has() {
    let house = House::sound().await;
    let examined = house.examined(&[("FOREMAN_DB_POOL", "1000")]).await;
    examined.only_trouble("connections", "may want 2014", "FOREMAN_DB_POOL=");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_direct_url_that_leads_elsewhere() {
    let (house, other) = (House::sound().await, House::sound().await);
    let examined = house.examined(&[("DATABASE_DIRECT_URL", other.db.url())]).await;
    examined.only_trouble("pooler", "another database", "the same database");
    let nobody = format!("postgres://foreman@127.0.0.1:{}/foreman", free_port());
    let examined = house.examined(&[("DATABASE_DIRECT_URL", &nobody)]).await;
    examined.only_trouble("pooler", "DATABASE_DIRECT_URL", "unset it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_nobody_told_of() {
    let house = House::sound().await;
    let pooler = crate::pooled::pgbouncer::PgBouncer::start(&house.db);
    let url = pooler.url(&house.db);
    let examined = foreman_tests::eventually("a PgBouncer that answers", async || {
        let examined = house.examined(&[("DATABASE_URL", &url)]).await;
        if examined.checks("trouble") == ["database"] { Err(format!("{examined:?}")) } else { Ok(examined) }
    })
    .await;
    examined.only_trouble("pooler", "FOREMAN_PGBOUNCER is not set", "FOREMAN_PGBOUNCER=yes");
    examined.trouble("pooler", "DATABASE_DIRECT_URL is not set", "past the pooler");

    let told = [("DATABASE_URL", url.as_str()), ("FOREMAN_PGBOUNCER", "yes")];
    let examined = house.examined(&[&told[..], &[("DATABASE_DIRECT_URL", &url)]].concat()).await;
    examined.only_trouble("pooler", "DATABASE_DIRECT_URL leads through", "Postgres' own address");
    let examined = house.examined(&[&told[..], &[("DATABASE_DIRECT_URL", house.db.url())]].concat()).await;
    assert_eq!(examined.checks("trouble"), Vec::<&str>::new(), "{examined:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_cannot_be_read_are_trouble_and_not_the_end() {
    let sim = ollama_sim::Sim::start(ollama_sim::Config::default()).await.unwrap();
    let settings = [
        ("DATABASE_URL_FILE", "/not/there"),
        ("FOREMAN_SECRET_KEY", "c2hvcnQ="),
        ("FOREMAN_WEBHOOK_SECRET", "whsec_%"),
        ("FOREMAN_WEBHOK_ALLOW", "loopback"),
        ("OLLAMA_HOST", &sim.url()),
    ];
    let examined = doctor(&[], &settings).await;
    assert_eq!(examined.checks("trouble"), ["secret_key", "webhook_secret", "database"], "{examined:#?}");
    assert_eq!(examined.checks("note")[0], "settings", "{examined:#?}");
}
