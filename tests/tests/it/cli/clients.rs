//! `foreman migrate` and `foreman client`.

use foreman_tests::{Api, Db, Process, eventually, free_port, http};
use serde_json::{Value, json};

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

    let blank = foreman(&["client", "create", " \u{3000}"], &settings).await;
    assert_eq!(blank.status.code(), Some(1));
    assert!(sentence(&blank).contains("not only blanks"), "{}", sentence(&blank));

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
    let shown = stdout(&foreman(&["client", "show", "reports"], &settings).await);
    assert!(shown.contains("revoked") && !shown.contains("good until"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_terms_are_set_shown_and_taken_back() {
    let db = Db::fresh().await;
    let settings = [("DATABASE_URL", db.url()), ("FOREMAN_SECRET_KEY", KEY)];
    let client = async |arguments: &[&str]| foreman(&[&["client"], arguments].concat(), &settings).await;
    let json = |output: &std::process::Output| serde_json::from_str::<Value>(&stdout(output)).unwrap();

    let made = client(&["create", "reports", "--weight", "2.5", "--max-running", "3", "--json"]).await;
    assert_eq!(json(&made).as_object().unwrap().keys().collect::<Vec<_>>(), ["client", "key", "secret"]);
    let all = ["--max-queued", "50", "--max-queued-bytes", "1MiB", "--gpu-seconds-a-day", "3600"];
    let set = json(&client(&[&["set", "reports", "--json"][..], &all].concat()).await);
    let terms = |shown: &Value| {
        ["weight", "max_queued", "max_queued_bytes", "max_running", "gpu_seconds_a_day"]
            .map(|term| shown[term].clone())
    };
    assert_eq!(terms(&set), [json!(2.5), json!(50), json!(1 << 20), json!(3), json!(3600.0)]);
    let kept = db.store.client_terms().await.unwrap();
    assert_eq!((kept.len(), kept[0].weight, kept[0].max_running), (1, 2.5, Some(3)));
    assert!(!kept[0].is_over_budget, "it has used nothing yet");

    let listed = stdout(&client(&["list"]).await);
    let words = "weight 2.5, at most 50 jobs queued, at most 1.0 MiB queued, at most 3 running on each host, 3600 GPU-seconds a day";
    assert!(listed.contains(words), "{listed}");

    let back = ["--weight", "default", "--max-running", "default", "--gpu-seconds-a-day", "default"];
    assert!(client(&[&["set", "reports"][..], &back].concat()).await.status.success());
    let shown = json(&client(&["show", "reports", "--json"]).await);
    assert_eq!(terms(&shown), [Value::Null, json!(50), json!(1 << 20), Value::Null, Value::Null]);
    assert_eq!(
        db.store.client_terms().await.unwrap(),
        [],
        "what may be queued is no matter of the scheduler"
    );

    let unknown = client(&["set", "nobody", "--weight", "2"]).await;
    assert_eq!(unknown.status.code(), Some(1));
    assert!(sentence(&unknown).contains("no client named"), "{}", sentence(&unknown));
    for wrong in [
        ["--weight", "0"],
        ["--weight", "101"],
        ["--weight", "-1"],
        ["--max-running", "0"],
        ["--max-queued", "some"],
    ] {
        let refused = client(&[&["set", "reports"][..], &wrong].concat()).await;
        assert_eq!(refused.status.code(), Some(2), "{wrong:?}");
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(said.contains("or `default`"), "{said}");
    }
}
