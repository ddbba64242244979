//! `foreman doctor`: a sound installation is clean, and each broken one has its trouble named, with the mend. Every one of
//! them is broken for real.

mod outside;
mod postgres;
mod tables;
mod work;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use foreman_runtime::config::SecretKey;
use foreman_store::{ConnectOptions, Seal, Store};
use foreman_tests::{Api, Cluster, Db, Process, Worker, free_port, within};
use ollama_sim::{Config, Sim};
use serde_json::Value;
use tokio::sync::OnceCell;

use super::{foreman, program, stdout};

/// 32 bytes in base64.
const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// A database as `foreman migrate` leaves it, in a cluster that promises to keep what it is given, and an Ollama.
struct House {
    db: Db,
    sim: Sim,
}

impl House {
    async fn sound() -> Self {
        // Build `foreman` before a holder is written: a build may last longer than the TTL of the holder.
        program();
        // That of the other tests has fsync off.
        static DURABLE: OnceCell<Cluster> = OnceCell::const_new();
        let db = Db::on(DURABLE.get_or_init(Cluster::durable).await).await;
        // A copied database has none of the settings that its role has in the template.
        db.store.migrate().await.unwrap();
        Self { db, sim: Sim::start(Config::default()).await.unwrap() }
    }

    /// What doctor says of it. `settings` win over ours, and an empty one is not set.
    async fn examined(&self, settings: &[(&str, &str)]) -> Examined {
        self.examined_with(&[], settings).await
    }

    async fn examined_with(&self, arguments: &[&str], settings: &[(&str, &str)]) -> Examined {
        let ollama = self.sim.url();
        let ours = [
            ("DATABASE_URL", self.db.url()),
            ("FOREMAN_SECRET_KEY", KEY),
            ("OLLAMA_HOST", &ollama),
            // Where the api would be, and is not.
            ("FOREMAN_API_ADDR", &format!("127.0.0.1:{}", free_port())),
        ];
        doctor(arguments, &[&ours[..], settings].concat()).await
    }
}

async fn doctor(arguments: &[&str], settings: &[(&str, &str)]) -> Examined {
    let output = foreman(&[&["doctor", "--json"], arguments].concat(), settings).await;
    let said = stdout(&output);
    let findings = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    Examined { findings, code: output.status.code().unwrap() }
}

#[derive(Debug)]
struct Examined {
    findings: Vec<Value>,
    code: i32,
}

impl Examined {
    /// The checks that found something of this level, each once.
    fn checks(&self, level: &str) -> Vec<&str> {
        let of_level = self.findings.iter().filter(|finding| finding["level"] == level);
        let mut checks: Vec<_> = of_level.map(|finding| finding["check"].as_str().unwrap()).collect();
        checks.dedup();
        checks
    }

    /// Nothing but this is wrong, and it is said with these words and this mend.
    #[track_caller]
    fn only_trouble(&self, check: &str, what: &str, mend: &str) {
        assert_eq!(self.checks("trouble"), [check], "{self:#?}");
        self.trouble(check, what, mend);
    }

    /// This is among what is wrong.
    #[track_caller]
    fn trouble(&self, check: &str, what: &str, mend: &str) {
        assert_eq!(self.code, 7, "{self:#?}");
        let says = |finding: &Value, field: &str, text: &str| {
            finding[field].as_str().unwrap_or_default().contains(text)
        };
        let named = self.findings.iter().any(|finding| {
            finding["level"] == "trouble"
                && finding["check"] == check
                && says(finding, "what", what)
                && says(finding, "mend", mend)
        });
        assert!(named, "nothing of {check} says {what:?} with the mend {mend:?}: {self:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_installation_is_clean() {
    let house = House::sound().await;
    let ollama = house.sim.url();
    let key = [("FOREMAN_SECRET_KEY", KEY)];
    let required = [("FOREMAN_AUTH", "required"), key[0]];
    let (api, _worker) =
        tokio::join!(Api::start(&house.db, &required), Worker::start(&house.db, &ollama, &key));
    let seal = Seal::new(SecretKey::parse(KEY).unwrap().bytes());
    let client = house.db.store.create_client(&seal, "reports", false).await.unwrap();
    let settings = [("FOREMAN_URL", api.url.as_str()), ("FOREMAN_API_KEY", &client.key)];
    let examined = house.examined(&settings).await;
    assert_eq!((examined.checks("trouble"), examined.checks("note")), (vec![], vec![]), "{examined:#?}");
    assert_eq!(examined.code, 0);

    // The same for people; nothing of it is a secret.
    let said = foreman(
        &["doctor"],
        &[
            &settings[..],
            &[("DATABASE_URL", house.db.url()), ("FOREMAN_SECRET_KEY", KEY), ("OLLAMA_HOST", &ollama)],
        ]
        .concat(),
    )
    .await;
    let text = stdout(&said);
    assert!(text.lines().count() >= 20 && text.lines().all(|line| line.starts_with("ok ")), "{text}");
    for secret in [KEY, client.key.as_str(), client.secret.as_str()] {
        assert!(!text.contains(secret), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_installation_at_rest_has_notes_and_no_trouble() {
    let house = House::sound().await;
    let examined = house.examined(&[]).await;
    assert_eq!(examined.checks("trouble"), Vec::<&str>::new(), "{examined:#?}");
    assert_eq!(examined.checks("note"), ["workers", "models", "api"], "{examined:#?}");
    assert_eq!(examined.code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_installation_that_is_nowhere_is_trouble_of_its_own() {
    let home = std::env::temp_dir().join(format!("foreman-doctor-{}", free_port()));
    let sim = Sim::start(Config::default()).await.unwrap();
    let examined =
        doctor(&[], &[("FOREMAN_HOME", home.to_str().unwrap()), ("OLLAMA_HOST", &sim.url())]).await;
    examined.only_trouble("settings", "DATABASE_URL is not set", "foreman up");
    assert!(!home.exists(), "doctor makes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_foreman_up_runs_nothing_has_to_be_set() {
    let sim = Sim::start(Config::default()).await.unwrap();
    let home = Home::new();
    let path = home.0.to_str().unwrap();
    let here = [("FOREMAN_HOME", path)];
    let free = || format!("127.0.0.1:{}", free_port());
    let (api, api_ops, worker_ops) = (free(), free(), free());
    let settings = [
        here[0],
        ("OLLAMA_HOST", &sim.url()),
        ("FOREMAN_API_ADDR", &api),
        ("FOREMAN_API_OPS_ADDR", &api_ops),
        ("FOREMAN_WORKER_OPS_ADDR", &worker_ops),
        ("FOREMAN_WORKER_STREAM_ADDR", "127.0.0.1:0"),
    ];
    let mut up = Process::start("foreman", &["up"], &settings);
    within(Duration::from_secs(120), "a clean foreman up", async || {
        assert!(up.has_ended().is_none(), "{}", up.log());
        let examined = doctor(&[], &[here[0], ("FOREMAN_URL", &format!("http://{api}"))]).await;
        if examined.code == 0 && examined.checks("note").is_empty() {
            Ok(())
        } else {
            Err(format!("{examined:?}"))
        }
    })
    .await;
    up.terminate().await;
    let examined = doctor(&[], &[here[0], ("OLLAMA_HOST", &sim.url())]).await;
    examined.only_trouble("settings", "does not run", "foreman up");
}

/// A `FOREMAN_HOME` that goes when the test does.
struct Home(PathBuf);

impl Home {
    fn new() -> Self {
        let path =
            std::env::temp_dir().join(format!("foreman-doctor-{}-{}", std::process::id(), free_port()));
        fs::create_dir(&path).unwrap();
        // As root, Postgres runs under another account and has to pass.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o711)).unwrap();
        Self(path)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkup_cannot_write() {
    let db = Db::fresh().await;
    let store = Store::new(ConnectOptions::for_checkup(db.url(), None).unwrap());
    let refused = store.accept(&[db.new_job()]).await.unwrap_err();
    let causes: Vec<_> =
        std::iter::successors(Some(&refused as &dyn std::error::Error), |error| error.source())
            .map(ToString::to_string)
            .collect();
    assert!(causes.iter().any(|cause| cause.contains("read-only transaction")), "{causes:?}");
    store.close().await;
}
