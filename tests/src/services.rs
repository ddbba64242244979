//! The services of Foreman as processes, with settings for tests: free ports, short leases, and webhooks to loopback
//! allowed.

use std::{sync::LazyLock, time::Duration};

use reqwest::{Client, Response, StatusCode};
use serde_json::Value;

use crate::{Db, Process, binaries::binary, eventually, free_port};

/// The HTTP client for all requests of the tests.
pub fn http() -> &'static Client {
    static HTTP: LazyLock<Client> = LazyLock::new(|| {
        foreman_runtime::tls::install();
        // The client keeps no connections, because this static would carry them from the runtime of one test to the
        // next.
        let client =
            Client::builder().pool_max_idle_per_host(0).timeout(Duration::from_secs(90)).no_proxy().build();
        client.expect("a client with ring can be built")
    });
    &HTTP
}

/// A `foreman-api`.
#[derive(Debug)]
pub struct Api {
    pub process: Process,
    pub url: String,
    pub ops_url: String,
}

impl Api {
    /// Starts an api without authentication, and returns when it is ready. `settings` override the defaults.
    pub async fn start(db: &Db, settings: &[(&str, &str)]) -> Self {
        Self::start_as("foreman-api", &[], db, settings).await
    }

    /// The same, with a limit on open files.
    pub async fn start_with_files(db: &Db, files: usize, settings: &[(&str, &str)]) -> Self {
        let command = format!("ulimit -n {files} && exec {}", binary("foreman-api").display());
        Self::start_as("/bin/sh", &["-c", &command], db, settings).await
    }

    async fn start_as(program: &str, arguments: &[&str], db: &Db, settings: &[(&str, &str)]) -> Self {
        let (address, ops) = (loopback(), loopback());
        let ours = [
            ("DATABASE_URL", db.url()),
            ("FOREMAN_API_ADDR", &address),
            ("FOREMAN_API_OPS_ADDR", &ops),
            ("FOREMAN_AUTH", "off"),
            ("FOREMAN_WEBHOOK_ALLOW", "loopback"),
        ];
        let process = Process::start(program, arguments, &[&ours[..], settings].concat());
        let api = Self { process, url: format!("http://{address}"), ops_url: format!("http://{ops}") };
        api.ready().await;
        api
    }

    /// Returns when the api is ready.
    pub async fn ready(&self) {
        ready(&self.ops_url).await;
    }

    /// Submits a job and returns its id. Panics if the job is not accepted.
    pub async fn submit(&self, job: &Value) -> String {
        let answer = http().post(format!("{}/jobs", self.url)).body(job.to_string()).send().await;
        accepted(answer.expect("the api answers")).await.expect("the api accepts")
    }

    /// Submits a job while the api may be dying. Returns the job's id if and only if a whole 202 was read.
    pub async fn submit_if_it_lives(url: &str, job: &Value) -> Option<String> {
        accepted(http().post(format!("{url}/jobs")).body(job.to_string()).send().await.ok()?).await.ok()
    }

    /// `GET` of this path, as JSON.
    pub async fn get(&self, path: &str) -> Value {
        let answer = http().get(format!("{}{path}", self.url)).send().await.expect("the api answers");
        serde_json::from_str(&answer.text().await.expect("an answer has a body")).expect("JSON")
    }
}

/// A `foreman-worker`.
#[derive(Debug)]
pub struct Worker {
    pub process: Process,
    pub ops_url: String,
}

impl Worker {
    /// Starts a worker for the Ollama at `ollama`, and returns when it is ready. `settings` override the defaults.
    pub async fn start(db: &Db, ollama: &str, settings: &[(&str, &str)]) -> Self {
        let ops = loopback();
        let ours = [
            ("DATABASE_URL", db.url()),
            ("OLLAMA_HOST", ollama),
            ("FOREMAN_WORKER_OPS_ADDR", &ops),
            ("FOREMAN_WORKER_STREAM_ADDR", "127.0.0.1:0"),
            ("FOREMAN_LEASE_TTL", "4s"),
            ("FOREMAN_WEBHOOK_ALLOW", "loopback"),
        ];
        let process = Process::start("foreman-worker", &[], &[&ours[..], settings].concat());
        let worker = Self { process, ops_url: format!("http://{ops}") };
        worker.ready().await;
        worker
    }

    /// Returns when the worker is ready.
    pub async fn ready(&self) {
        ready(&self.ops_url).await;
    }

    /// The value of a counter or gauge without labels; 0 before it exists.
    pub async fn metric(&self, name: &str) -> f64 {
        let answer =
            http().get(format!("{}/metrics", self.ops_url)).send().await.expect("the worker answers");
        let text = answer.text().await.expect("metrics are text");
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().expect("a metric has a number"))
    }
}

/// The id in a 202, or the other answer as an error.
async fn accepted(answer: Response) -> Result<String, String> {
    let status = answer.status();
    let text = answer.text().await.map_err(|error| error.to_string())?;
    let body: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let id = body["job_id"].as_str().filter(|_| status == StatusCode::ACCEPTED);
    id.map(str::to_owned).ok_or_else(|| format!("{status}: {text}"))
}

fn loopback() -> String {
    format!("127.0.0.1:{}", free_port())
}

async fn ready(ops_url: &str) {
    eventually("a service that is ready", async || {
        let answer =
            http().get(format!("{ops_url}/readyz")).send().await.map_err(|error| format!("{error:?}"))?;
        let status = answer.status();
        if status.is_success() {
            Ok(())
        } else {
            Err(format!("{status}: {}", answer.text().await.unwrap_or_default()))
        }
    })
    .await;
}
