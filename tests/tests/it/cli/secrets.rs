//! The change of `FOREMAN_SECRET_KEY`, by an operator who may be interrupted, and that no secret is ever told.

use foreman_runtime::config::SecretKey;
use foreman_store::Seal;
use foreman_tests::{
    Api, Db, Process, Received, Receiver, ReceiverAnswer, Worker, endpoint_at, eventually, http,
};
use ollama_sim::{Config, Sim};
use serde_json::{Value, json};
use sqlx::Connection as _;

use super::{foreman, sentence, stdout};

/// 32 bytes each, in base64.
const OLD: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const NEW: &str = "/////////////////////////////////////////w8=";
const LOST: &str = "Dw8PDw8PDw8PDw8PDw8PDw8PDw8PDw8PDw8PDw8PDw8=";

/// The secret of the installation, and the value of an endpoint's header.
const INSTALLATION: &str = "whsec_aG91c2UtaG91c2UtaG91c2UtaG91c2UtaG91c2U=";
const HEADER: &str = "Bearer hush-hush";

fn seal(key: &str) -> Seal {
    Seal::new(SecretKey::parse(key).unwrap().bytes())
}

/// Two values of a client that has been rotated, and two of an endpoint with a header, sealed with this key.
async fn fill(db: &Db, key: &str, name: &str) {
    let client = db.store.create_client(&seal(key), name, false).await.unwrap().client;
    db.store.rotate_client(&seal(key), name).await.unwrap();
    let settings = endpoint_at("http://127.0.0.1:9/");
    let headers = vec![("x-token".to_owned(), "hush".to_owned())];
    db.store.create_endpoint(&seal(key), client, &settings, &headers).await.unwrap().unwrap();
}

/// How many values each key has sealed, in the order of the keys.
async fn sealed_by(db: &Db, keys: &[&str]) -> Vec<usize> {
    let sealed = db.store.sealed_by().await.unwrap();
    keys.iter().map(|key| sealed.get(&Some(seal(key).key_id())).copied().unwrap_or_default()).collect()
}

fn settings<'a>(db: &'a Db, previous: &'a str) -> [(&'a str, &'a str); 3] {
    [("DATABASE_URL", db.url()), ("FOREMAN_SECRET_KEY", NEW), ("FOREMAN_PREVIOUS_SECRET_KEY", previous)]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_stored_secret_is_encrypted_anew_once() {
    let db = Db::fresh().await;
    fill(&db, OLD, "reports").await;
    fill(&db, NEW, "later").await;
    assert_eq!(sealed_by(&db, &[OLD, NEW]).await, [4, 4]);
    // Every column of bytes of these tables that is no digest holds sealed values.
    let columns: i64 = db
        .value(
            "SELECT count(*) FROM information_schema.columns WHERE data_type = 'bytea' AND table_name IN ('client', 'webhook_endpoint')
               AND column_name NOT IN ('key_digest', 'previous_key')",
        )
        .await;
    assert_eq!(columns, 5, "a new sealed column belongs into the store's `client/reseal.rs` too");

    for said in ["4 encrypted anew with the key ", "0 encrypted anew with the key "] {
        let output = foreman(&["secrets", "rotate"], &settings(&db, OLD)).await;
        assert!(output.status.success() && stdout(&output).starts_with(said), "{output:?}");
        assert_eq!(sealed_by(&db, &[OLD, NEW]).await, [0, 8]);
    }
    let doctor = foreman(&["doctor"], &settings(&db, OLD)).await;
    assert!(
        stdout(&doctor).contains("FOREMAN_PREVIOUS_SECRET_KEY is set, and no stored secret needs it"),
        "{doctor:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_neither_key_opens_stays_and_is_told_with_the_mend() {
    let db = Db::fresh().await;
    fill(&db, OLD, "reports").await;
    fill(&db, LOST, "forgotten").await;
    let output = foreman(&["secrets", "rotate"], &settings(&db, OLD)).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).starts_with("4 encrypted anew"), "{output:?}");
    let said = sentence(&output);
    assert!(
        said.contains("4 can be opened by neither key") && said.contains("FOREMAN_PREVIOUS_SECRET_KEY"),
        "{said}"
    );
    assert_eq!(sealed_by(&db, &[OLD, NEW, LOST]).await, [0, 4, 4]);
    let doctor = stdout(&foreman(&["doctor"], &settings(&db, OLD)).await);
    assert!(doctor.contains("4 stored secrets are sealed with another key"), "{doctor}");

    let output = foreman(&["secrets", "rotate"], &settings(&db, LOST)).await;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(sealed_by(&db, &[OLD, NEW, LOST]).await, [0, 8, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_was_killed_in_the_middle_is_finished_by_the_next_one() {
    let db = Db::fresh().await;
    for name in ["one", "other", "third"] {
        fill(&db, OLD, name).await;
    }
    // The clients are changed first; their endpoints cannot be written while we hold them.
    let mut holding = sqlx::PgConnection::connect(db.url()).await.unwrap();
    let mut held = holding.begin().await.unwrap();
    sqlx::query("SELECT FROM webhook_endpoint FOR UPDATE").execute(&mut *held).await.unwrap();
    let mut rotating = Process::start("foreman", &["secrets", "rotate"], &settings(&db, OLD));
    eventually("a half that is done", async || {
        let sealed = sealed_by(&db, &[OLD, NEW]).await;
        if sealed == [6, 6] { Ok(()) } else { Err(format!("{sealed:?}")) }
    })
    .await;
    rotating.kill().await;
    held.rollback().await.unwrap();

    let output = foreman(&["secrets", "rotate"], &settings(&db, OLD)).await;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(sealed_by(&db, &[OLD, NEW]).await, [0, 12]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_previous_key_without_a_new_one_is_refused() {
    let db = Db::fresh().await;
    let settings = [("DATABASE_URL", db.url()), ("FOREMAN_PREVIOUS_SECRET_KEY", OLD)];
    let output = foreman(&["secrets", "rotate"], &settings).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(sentence(&output).contains("FOREMAN_PREVIOUS_SECRET_KEY"), "{output:?}");
}

/// Everything is in use: keys, secrets, headers, both encryption keys. Then everything that operators read is searched.
#[tokio::test(flavor = "multi_thread")]
async fn webhooks_are_signed_while_the_key_changes_and_no_secret_is_told() {
    let answers = |request: &Received, _| {
        ReceiverAnswer::Status(if request.path.starts_with("/fails") { 500 } else { 200 })
    };
    let (db, receiver) = (Db::fresh().await, Receiver::answering(answers).await);
    let sim = Sim::start(Config::default()).await.unwrap();
    let made = db.store.create_client(&seal(OLD), "reports", false).await.unwrap();
    let ollama = sim.url();
    let keys = [
        ("FOREMAN_SECRET_KEY", NEW),
        ("FOREMAN_PREVIOUS_SECRET_KEY", OLD),
        ("FOREMAN_WEBHOOK_SECRET", INSTALLATION),
        ("FOREMAN_LOG", "debug"),
    ];
    let required = [&keys[..], &[("FOREMAN_AUTH", "required")]].concat();
    // The worker has both keys, and the api has still the old one alone.
    let late = [("FOREMAN_SECRET_KEY", OLD), ("FOREMAN_AUTH", "required"), ("FOREMAN_LOG", "debug")];
    let (api, worker) = tokio::join!(Api::start(&db, &late), Worker::start(&db, &ollama, &keys));
    // An endpoint whose receiver fails, with a header.
    let endpoint = json!({
        "url": receiver.url("/fails/endpoint-token"), "events": ["queued"], "headers": {"authorization": HEADER}
    });
    let post = async |path: &str, body: String| -> Value {
        let asked = http().post(format!("{}/webhooks{path}", api.url)).bearer_auth(&made.key).body(body);
        serde_json::from_str(&asked.send().await.unwrap().text().await.unwrap()).unwrap()
    };
    let endpoint = post("", endpoint.to_string()).await;
    let rotate = format!("/{}/rotate", endpoint["endpoint_id"].as_str().unwrap());
    let of_endpoint = [endpoint, post(&rotate, String::new()).await];
    let of_endpoint: Vec<&str> = of_endpoint.iter().map(|made| made["secret"].as_str().unwrap()).collect();
    let url = receiver.url("/in/path-token");
    let job = json!({"model": "tiny-a", "prompt": "sim:echo hello", "state_webhook_url": url});
    let ask = async |api: &Api| {
        let asked = http().post(format!("{}/jobs", api.url)).bearer_auth(&made.key).body(job.to_string());
        assert_eq!(asked.send().await.unwrap().status(), 202);
        // A sync call needs the worker to know the api.
        let call = json!({"model": "tiny-a", "prompt": "sim:echo hello", "stream": false}).to_string();
        let asked = http().post(format!("{}/api/generate", api.url)).bearer_auth(&made.key).body(call);
        assert_eq!(asked.send().await.unwrap().status(), 200);
    };
    let signed = async |count: usize| {
        eventually("signed webhooks", async || {
            let received = receiver.received();
            assert!(received.iter().all(|one| one.header("webhook-signature").starts_with("v1,")));
            let failed =
                received.iter().filter(|one| one.path == "/fails/endpoint-token").collect::<Vec<_>>();
            assert!(failed.iter().all(|one| one.header("authorization") == HEADER));
            let good = received.len() - failed.len();
            if good == count && !failed.is_empty() {
                Ok(())
            } else {
                Err(format!("{good}, and {} that failed", failed.len()))
            }
        })
        .await;
    };
    ask(&api).await;
    signed(4).await;
    let rotated = foreman(&["secrets", "rotate"], &settings(&db, OLD)).await;
    assert!(rotated.status.success(), "{rotated:?}");
    let newer = Api::start(&db, &required).await;
    ask(&newer).await;
    signed(8).await;

    let mut told = vec![api.process.log(), newer.process.log(), worker.process.log(), format!("{rotated:?}")];
    let looked_over = [("OLLAMA_HOST", &*ollama), ("FOREMAN_WEBHOOK_SECRET", INSTALLATION)];
    let doctor = foreman(&["doctor"], &[&settings(&db, OLD)[..], &looked_over].concat()).await;
    told.push(format!("{doctor:?}"));
    for ops in [&api.ops_url, &newer.ops_url, &worker.ops_url] {
        told.push(http().get(format!("{ops}/metrics")).send().await.unwrap().text().await.unwrap());
    }
    for path in ["webhooks", "v1/webhook_endpoints"] {
        let listed = http().get(format!("{}/{path}", newer.url)).bearer_auth(&made.key).send().await.unwrap();
        let listed = listed.text().await.unwrap();
        assert!(
            ![HEADER, of_endpoint[0], of_endpoint[1]].iter().any(|secret| listed.contains(secret)),
            "{listed}"
        );
    }
    // The database as a dump shows it. It has the receivers' URLs, and nothing else of these.
    let dump: String = db.value("SELECT schema_to_xml('public', true, false, '')::text").await;
    let secrets = [NEW, OLD, &made.key, &made.secret, of_endpoint[0], of_endpoint[1], INSTALLATION, HEADER];
    for text in &told {
        for secret in secrets.iter().chain(&["path-token", "endpoint-token"]) {
            assert!(!text.contains(secret), "{secret} is told in {text}");
        }
    }
    assert!(dump.contains("path-token") && dump.contains("endpoint-token"), "nothing was dumped");
    assert!(secrets.iter().all(|secret| !dump.contains(secret)), "a secret stands in the database");
}
