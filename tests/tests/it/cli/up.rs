//! `foreman up` and `foreman demo`: everything starts, survives, and leaves nothing behind.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use foreman_tests::{Process, Signal, free_port, http, within};
use nix::sys::signal::kill;
use nix::unistd::Pid;
use ollama_sim::{Config, Sim};
use serde_json::{Value, json};

use super::{foreman, sentence};

/// A cluster is made, migrated and started by processes that share two cores with other tests.
const START: Duration = Duration::from_secs(120);

/// A `FOREMAN_HOME` that goes when the test does.
struct Home(PathBuf);

impl Home {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("foreman-up-{}-{}", std::process::id(), free_port()));
        fs::create_dir(&path).unwrap();
        // As root, Postgres runs under another account and has to pass.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o711)).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }

    /// The process that holds the lock of this program, if one does.
    fn holder_of(&self, program: &str) -> Option<Pid> {
        let lock = fs::File::open(self.0.join("run").join(format!("{program}.lock"))).ok()?;
        lock.try_lock_shared().is_err().then(|| {
            let pid = std::io::read_to_string(lock).unwrap();
            Pid::from_raw(pid.trim().parse().unwrap_or_default())
        })
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }
}

/// A running `foreman up` or `foreman demo`.
struct Up {
    process: Process,
    ready: PathBuf,
    settings: Vec<(String, String)>,
}

impl Up {
    async fn start(what: &str, home: &Home, ollama: &str) -> Self {
        let ready = home.0.join("ready");
        let mut settings = vec![("FOREMAN_HOME".to_owned(), home.path().to_owned())];
        settings.push(("OLLAMA_HOST".to_owned(), ollama.to_owned()));
        for name in [
            "FOREMAN_API_ADDR",
            "FOREMAN_API_OPS_ADDR",
            "FOREMAN_WORKER_OPS_ADDR",
            "FOREMAN_WORKER_STREAM_ADDR",
        ] {
            settings.push((name.to_owned(), format!("127.0.0.1:{}", free_port())));
        }
        let ready_file = ["--ready-file", ready.to_str().unwrap()];
        let as_pairs: Vec<_> = settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let process = Process::start("foreman", &[&[what], &ready_file[..]].concat(), &as_pairs);
        let mut up = Self { process, ready, settings };
        up.is_ready().await;
        up
    }

    async fn start_again(&mut self) {
        let _gone = fs::remove_file(&self.ready);
        self.process.start_again();
        self.is_ready().await;
    }

    async fn is_ready(&mut self) {
        let (process, ready) = (&mut self.process, &self.ready);
        within(START, "foreman up to be ready", async || {
            assert!(process.has_ended().is_none(), "it has ended: {}", process.log());
            match fs::read_to_string(ready) {
                Ok(url) if url.ends_with('\n') => Ok(()),
                _ => Err(process.log()),
            }
        })
        .await;
    }

    fn url(&self) -> String {
        fs::read_to_string(&self.ready).unwrap().trim().to_owned()
    }

    async fn submit(&self, job: &Value) -> String {
        let url = format!("{}/jobs", self.url());
        within(START, "a job to be accepted", async || {
            let answer =
                http().post(&url).body(job.to_string()).send().await.map_err(|error| error.to_string())?;
            let status = answer.status();
            let body: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
            body["job_id"].as_str().map(str::to_owned).ok_or_else(|| format!("{status} {body}"))
        })
        .await
    }

    async fn finished(&self, id: &str) -> Value {
        let url = format!("{}/jobs/{id}?wait=10", self.url());
        within(START, "the end of a job", async || {
            let answer = http().get(&url).send().await.map_err(|error| error.to_string())?;
            let job: Value =
                serde_json::from_str(&answer.text().await.map_err(|error| error.to_string())?).unwrap();
            if job["completed_at"].is_null() { Err(job.to_string()) } else { Ok(job) }
        })
        .await
    }

    fn settings(&self) -> Vec<(&str, &str)> {
        self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }
}

async fn sim() -> Sim {
    Sim::start(Config::default()).await.unwrap()
}

fn job() -> Value {
    json!({"model": "tiny-a", "messages": [{"role": "user", "content": "hello"}]})
}

const CHILDREN: [&str; 3] = ["foreman-api", "foreman-worker", "postgres"];

async fn nothing_is_left(home: &Home) {
    within(START, "the end of every child", async || {
        let left: Vec<_> = CHILDREN.iter().filter(|name| home.holder_of(name).is_some()).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread")]
async fn up_runs_everything_stops_cleanly_and_goes_on_where_it_stopped() {
    let (home, sim) = (Home::new(), sim().await);
    let mut up = Up::start("up", &home, &sim.url()).await;
    let id = up.submit(&job()).await;
    assert_eq!(up.finished(&id).await["state"], "done");
    for secret in ["secret-key", "webhook-secret"] {
        assert_eq!(mode(&home.0.join("secrets").join(secret)), 0o600);
    }
    let key = fs::read_to_string(home.0.join("secrets/secret-key")).unwrap();

    up.process.signal(Signal::SIGINT);
    let ended = up.process.ended().await;
    assert!(ended.success(), "{ended}: {}", up.process.log());
    nothing_is_left(&home).await;
    let log = up.process.log();
    let stopped: Vec<_> = log.lines().filter_map(|line| line.strip_suffix(" has stopped.")).collect();
    assert_eq!(stopped, CHILDREN, "{log}");

    up.start_again().await;
    assert_eq!(up.finished(&id).await["state"], "done");
    assert_eq!(fs::read_to_string(home.0.join("secrets/secret-key")).unwrap(), key);
    up.process.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_up_takes_everything_with_it_and_the_next_one_starts_at_once() {
    let (home, sim) = (Home::new(), sim().await);
    let mut up = Up::start("up", &home, &sim.url()).await;
    let id = up.submit(&job()).await;
    up.process.kill().await;
    up.start_again().await;
    assert_eq!(up.finished(&id).await["state"], "done");

    up.process.kill().await;
    nothing_is_left(&home).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn children_whose_tethers_were_killed_too_are_ended_by_the_next_up() {
    let (home, sim) = (Home::new(), sim().await);
    let mut up = Up::start("up", &home, &sim.url()).await;
    let before: Vec<Pid> = CHILDREN.iter().map(|name| home.holder_of(name).unwrap()).collect();
    let tethers: Vec<Pid> = before.iter().map(|child| parent(*child)).collect();
    up.process.kill().await;
    for tether in tethers {
        // An error means that it has ended already, as it should when `up` has.
        let _ended = kill(tether, Signal::SIGKILL);
    }
    up.start_again().await;
    for (name, before) in CHILDREN.iter().zip(before) {
        assert_ne!(home.holder_of(name), Some(before), "{name}");
    }
    let id = up.submit(&job()).await;
    assert_eq!(up.finished(&id).await["state"], "done");
    up.process.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_dies_is_started_again() {
    let (home, sim) = (Home::new(), sim().await);
    let mut up = Up::start("up", &home, &sim.url()).await;
    for name in CHILDREN {
        let before = home.holder_of(name).unwrap();
        kill(before, Signal::SIGKILL).unwrap();
        within(START, "another one of the same name", async || match home.holder_of(name) {
            Some(now) if now != before && now.as_raw() > 0 => Ok(()),
            seen => Err(format!("{name}: {seen:?}")),
        })
        .await;
        let id = up.submit(&job()).await;
        assert_eq!(up.finished(&id).await["state"], "done");
        assert!(up.process.log().contains(&format!("{name} was ended by signal 9")), "{}", up.process.log());
    }
    up.process.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_ctrl_c_ends_everything_at_once() {
    let (home, sim) = (Home::new(), sim().await);
    let mut up = Up::start("up", &home, &sim.url()).await;
    // Far longer than the grace.
    let id = up.submit(&json!({"model": "tiny-a", "prompt": "sim:prompt-delay=1h"})).await;
    within(START, "the job to run", async || {
        let answer =
            http().get(format!("{}/jobs/{id}", up.url())).send().await.unwrap().text().await.unwrap();
        if answer.contains(r#""state":"working""#) { Ok(()) } else { Err(answer) }
    })
    .await;
    up.process.signal(Signal::SIGINT);
    within(START, "a word about stopping", async || {
        if up.process.log().contains("foreman-api has stopped") { Ok(()) } else { Err(up.process.log()) }
    })
    .await;
    up.process.signal(Signal::SIGINT);
    up.process.ended().await;
    assert!(up.process.log().contains("ending everything at once"), "{}", up.process.log());
    nothing_is_left(&home).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_home_or_a_port_that_is_taken_is_one_sentence() {
    let (home, other, sim) = (Home::new(), Home::new(), sim().await);
    let mut up = Up::start("up", &home, &sim.url()).await;
    let refused = foreman(&["up"], &up.settings()).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(sentence(&refused).contains("another `foreman up`"), "{}", sentence(&refused));

    let mut settings = up.settings();
    settings[0].1 = other.path();
    let refused = foreman(&["up"], &settings).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(sentence(&refused).contains("FOREMAN_API_ADDR"), "{}", sentence(&refused));
    up.process.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_misconfigured_service_ends_up_with_its_sentence() {
    let (home, sim) = (Home::new(), sim().await);
    let address = format!("127.0.0.1:{}", free_port());
    let settings = [
        ("FOREMAN_HOME", home.path()),
        ("OLLAMA_HOST", &sim.url()),
        ("FOREMAN_API_ADDR", &address),
        ("FOREMAN_MAX_BODY", "enough"),
    ];
    let output = foreman(&["up"], &settings).await;
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("FOREMAN_MAX_BODY is \"enough\""), "{said}");
    nothing_is_left(&home).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_says_that_it_is_one_and_so_do_its_results() {
    let home = Home::new();
    // Neither may be touched.
    let mut up = Up::start("demo", &home, "127.0.0.1:9").await;
    assert!(up.process.log().contains("SIMULATION"), "{}", up.process.log());
    let id = up.submit(&json!({"model": "llama3.2", "prompt": "hello"})).await;
    let job = up.finished(&id).await;
    assert_eq!(job["result"]["simulated"], true, "{job}");
    assert!(home.0.join("demo/postgres/data").is_dir() && !home.0.join("postgres").exists());
    up.process.terminate().await;

    up.start_again().await;
    let id = up.submit(&json!({"model": "llama3.2", "prompt": "hello again"})).await;
    assert_eq!(up.finished(&id).await["state"], "done");
    let hosts = http().get(format!("{}/hosts", up.url())).send().await.unwrap().text().await.unwrap();
    let hosts: Value = serde_json::from_str(&hosts).unwrap();
    assert_eq!(
        (hosts["data"].as_array().unwrap().len(), &hosts["data"][0]["host_id"]),
        (1, &json!("simulator"))
    );
    up.process.terminate().await;
}

/// From `/proc`: the fourth field, behind a name that may hold anything but its last bracket.
fn parent(pid: Pid) -> Pid {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    Pid::from_raw(fields.split(' ').nth(1).unwrap().parse().unwrap())
}
