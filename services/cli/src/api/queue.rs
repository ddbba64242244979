//! What waits, whose turn it is, and who got how much of the GPU.

use chrono::{DateTime, Utc};
use reqwest::Method;
use serde::Deserialize;

use super::{ANSWER_WITHIN, Api, ApiError, Reply};

#[derive(Deserialize)]
pub(crate) struct Queue {
    pub(crate) models: Vec<QueueModel>,
    pub(crate) hosts: Vec<QueueHost>,
    pub(crate) clients: Vec<QueueClient>,
}

#[derive(Deserialize)]
pub(crate) struct QueueModel {
    pub(crate) model: String,
    pub(crate) queued: u64,
    pub(crate) running: u64,
    pub(crate) oldest: Option<DateTime<Utc>>,
    pub(crate) resident_on: Vec<String>,
    pub(crate) longest_wait_ms: Option<u64>,
}

#[derive(Deserialize)]
pub(crate) struct QueueHost {
    pub(crate) host: String,
    /// An older api lists no others.
    #[serde(default = "yes")]
    pub(crate) is_reachable: bool,
    pub(crate) turn: Option<Turn>,
    /// An older api lists none.
    #[serde(default)]
    pub(crate) loaded: Vec<Loaded>,
    pub(crate) next: Vec<LaterTurn>,
    pub(crate) is_drained: bool,
    pub(crate) running: u64,
    pub(crate) slots: u64,
    pub(crate) longest_wait_ms: Option<u64>,
    pub(crate) max_wait_ms: Option<u64>,
    pub(crate) keeps_max_wait: bool,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
pub(crate) struct Turn {
    pub(crate) model: String,
    pub(crate) load_key: String,
    pub(crate) context: Option<u64>,
    pub(crate) is_loaded: bool,
    pub(crate) client: Option<String>,
    pub(crate) reason: String,
}

#[derive(Deserialize)]
pub(crate) struct Loaded {
    pub(crate) model: String,
    pub(crate) load_key: String,
    pub(crate) context: Option<u64>,
}

#[derive(Deserialize)]
pub(crate) struct LaterTurn {
    pub(crate) model: String,
    pub(crate) context: Option<u64>,
    pub(crate) client: String,
    pub(crate) reason: String,
}

#[derive(Deserialize)]
pub(crate) struct QueueClient {
    pub(crate) name: String,
    pub(crate) queued: u64,
    pub(crate) running: u64,
    pub(crate) weight: f64,
    pub(crate) share_due: Option<f64>,
    pub(crate) share_got: Option<f64>,
    pub(crate) gpu_seconds: f64,
    pub(crate) max_running: Option<u64>,
    pub(crate) gpu_seconds_left: Option<f64>,
}

impl Api {
    pub(crate) async fn queue(&self) -> Result<Reply<Queue>, ApiError> {
        self.send(self.request(Method::GET, "queue").timeout(ANSWER_WITHIN)).await
    }
}
