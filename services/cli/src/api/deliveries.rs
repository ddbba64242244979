//! The webhooks of a job, and what became of each.

use chrono::{DateTime, Utc};
use reqwest::Method;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{ANSWER_WITHIN, Answer, Api, ApiError};

/// One webhook to one receiver.
#[derive(Deserialize)]
pub(crate) struct Delivery {
    pub(crate) seq: i64,
    pub(crate) r#type: String,
    pub(crate) url: String,
    pub(crate) state: String,
    pub(crate) next_attempt_at: Option<DateTime<Utc>>,
    pub(crate) attempts: Vec<Attempt>,
}

#[derive(Deserialize)]
pub(crate) struct Attempt {
    pub(crate) at: DateTime<Utc>,
    pub(crate) status: Option<u16>,
    pub(crate) error_code: Option<String>,
    pub(crate) latency_ms: Option<u64>,
}

impl Api {
    /// In the order of the job's events, each as it came.
    pub(crate) async fn deliveries(&self, job: &str) -> Result<Vec<Box<RawValue>>, ApiError> {
        #[derive(Deserialize)]
        struct Deliveries {
            data: Vec<Box<RawValue>>,
        }
        let path = format!("jobs/{job}/deliveries");
        let deliveries: Answer<Deliveries> =
            self.send(self.request(Method::GET, &path).timeout(ANSWER_WITHIN)).await?;
        Ok(deliveries.value.data)
    }
}
