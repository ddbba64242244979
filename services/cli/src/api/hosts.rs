//! The Ollama hosts.

use chrono::{DateTime, Utc};
use reqwest::Method;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{ANSWER_WITHIN, Api, ApiError, Reply};

#[derive(Deserialize)]
pub(crate) struct Host {
    pub(crate) host_id: String,
    pub(crate) worker: Option<String>,
    pub(crate) reachable: bool,
    pub(crate) slots: u32,
    pub(crate) running: u64,
    pub(crate) resident: Vec<String>,
    pub(crate) models: Vec<String>,
    pub(crate) drained_at: Option<DateTime<Utc>>,
}

#[derive(Deserialize)]
struct Hosts {
    data: Vec<Box<RawValue>>,
}

impl Api {
    /// Every host, as it came.
    pub(crate) async fn hosts(&self) -> Result<Vec<Box<RawValue>>, ApiError> {
        let hosts: Reply<Hosts> =
            self.send(self.request(Method::GET, "hosts").timeout(ANSWER_WITHIN)).await?;
        Ok(hosts.value.data)
    }

    pub(crate) async fn drain_host(&self, id: &str) -> Result<Reply<Host>, ApiError> {
        self.change_host(id, "drain").await
    }

    pub(crate) async fn resume_host(&self, id: &str) -> Result<Reply<Host>, ApiError> {
        self.change_host(id, "resume").await
    }

    async fn change_host(&self, id: &str, change: &str) -> Result<Reply<Host>, ApiError> {
        self.send(self.request_to(Method::POST, &["hosts", id, change]).timeout(ANSWER_WITHIN)).await
    }
}
