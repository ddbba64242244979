//! The webhooks of a job, and what became of each.

use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::page::{LARGEST_PAGE, Page};
use super::{Api, ApiError};

/// One webhook to one receiver.
#[derive(Deserialize)]
pub(crate) struct Delivery {
    pub(crate) seq: i64,
    pub(crate) r#type: String,
    pub(crate) url: String,
    pub(crate) state: String,
    pub(crate) next_attempt_at: Option<DateTime<Utc>>,
    /// Missing from an older api.
    pub(crate) held_until: Option<DateTime<Utc>>,
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
    /// A page of them in the order of the job's events.
    pub(crate) async fn deliveries(&self, job: &str, after: Option<&str>) -> Result<Page, ApiError> {
        self.page(&format!("jobs/{job}/deliveries"), LARGEST_PAGE, &[], after).await
    }
}
