//! `foreman migrate` and `foreman client`.

use foreman_tests::{Api, Db, Process, eventually, free_port, http};
use serde_json::Value;

use super::{foreman, sentence, stdout};

/// 32 bytes in base64.
const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

#[tokio::test(flavor = "multi_thread")]
async fn a_database_is_migrated_from_three_places_at_once_and_again() {
    let db = Db::fresh().await;
    // Another database of the same cluster, where nothing is yet.
    let empty = format!("{}_empty", db.name());
    db.run(&format!("CREATE DATABASE {empty}")).await;
    let url = db.url().replace(db.name(), &empty);
    let settings = [("DATABASE_URL", url.as_str())];
    for output in <[_; 3]>::from(tokio::join!(
        foreman(&["migrate"], &settings),
        foreman(&["migrate"], &settings),
        foreman(&["migrate"], &settings)
    )) {
        assert!(output.status.success(), "{}", sentence(&output));
    }
    let again = foreman(&["migrate"], &settings).await;
    assert!(again.status.success() && sentence(&again).contains("schema version"), "{}", sentence(&again));
}

#[tokio::test(flavor = "multi_thread")]
async fn migrate_waits_for_postgres_and_says_so() {
    let nobody = format!("postgres://foreman@127.0.0.1:{}/nothing", free_port());
    let process = Process::start("foreman", &["migrate"], &[("DATABASE_URL", &nobody)]);
    let said = eventually("a word about waiting", async || {
        let log = process.log();
        if log.is_empty() { Err("silence") } else { Ok(log) }
    })
    .await;
    assert!(said.starts_with("Waiting for Postgres"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_or_missing_setting_is_one_sentence_that_names_it() {
    for (settings, name) in [
        (&[][..], "DATABASE_URL"),
        (&[("DATABASE_URL", "mysql://x")], "DATABASE_URL"),
        (&[("DATABASE_URL_FILE", "/not/there")], "DATABASE_URL_FILE"),
        (&[("DATABASE_URL", "postgres://x"), ("FOREMAN_DB_POOL", "many")], "FOREMAN_DB_POOL"),
    ] {
        let output = foreman(&["migrate"], settings).await;
        assert_eq!(output.status.code(), Some(2), "{settings:?}");
        assert!(sentence(&output).starts_with(&format!("foreman: {name}")), "{}", sentence(&output));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_secret_key_no_client_is_made() {
    let db = Db::fresh().await;
    let output = foreman(&["client", "create", "reports"], &[("DATABASE_URL", db.url())]).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(sentence(&output).contains("FOREMAN_SECRET_KEY"), "{}", sentence(&output));
    assert_eq!(stdout(&output), "");
    assert_eq!(db.value::<i64>("SELECT count(*) FROM client").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_signs_in_with_what_was_shown_once_until_it_is_revoked() {
    let db = Db::fresh().await;
    let settings = [("DATABASE_URL", db.url()), ("FOREMAN_SECRET_KEY", KEY)];
    let api = Api::start(&db, &[("FOREMAN_AUTH", "required"), ("FOREMAN_SECRET_KEY", KEY)]).await;
    let status = async |key: &str| {
        let answer = http().get(format!("{}/jobs", api.url)).bearer_auth(key).send().await.unwrap();
        answer.status().as_u16()
    };
    let key_of = |output: &std::process::Output| {
        let made: Value = serde_json::from_str(&stdout(output)).unwrap();
        assert_eq!(made.as_object().unwrap().keys().collect::<Vec<_>>(), ["client", "key", "secret"]);
        assert_eq!(made["client"], "reports");
        assert!(made["secret"].as_str().unwrap().starts_with("whsec_"), "{made}");
        made["key"].as_str().unwrap().to_owned()
    };
    let first = key_of(&foreman(&["client", "create", "reports", "--json"], &settings).await);
    assert_eq!(status(&first).await, 200);

    let twice = foreman(&["client", "create", "reports"], &settings).await;
    assert_eq!(twice.status.code(), Some(1));
    assert!(sentence(&twice).contains("reports"));

    let second = key_of(&foreman(&["client", "rotate", "reports", "--json"], &settings).await);
    assert_eq!((status(&first).await, status(&second).await), (200, 200));

    let listed = stdout(&foreman(&["client", "list"], &settings).await);
    assert!(listed.contains("reports") && !listed.contains(&second), "{listed}");

    assert!(foreman(&["client", "revoke", "reports"], &settings).await.status.success());
    eventually("both keys to end", async || match (status(&first).await, status(&second).await) {
        (401, 401) => Ok(()),
        seen => Err(format!("{seen:?}")),
    })
    .await;
}
