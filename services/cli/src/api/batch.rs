//! Many jobs in one request.

use std::time::Duration;

use reqwest::{Method, header};
use serde::Deserialize;

use super::{Api, ApiError};

/// Longer than for other requests, because a large body takes a while on a slow connection.
const ANSWER_WITHIN: Duration = Duration::from_secs(180);

/// The api's reply to one line of a batch.
#[derive(Debug, Deserialize)]
pub(crate) struct LineReply {
    /// Counts from 1 within the batch.
    pub(crate) line: usize,
    pub(crate) status: u16,
    pub(crate) job_id: Option<String>,
    pub(crate) error: Option<String>,
}

impl Api {
    /// Each line of `body` is one job.
    pub(crate) async fn submit_batch(&self, body: String) -> Result<Vec<LineReply>, ApiError> {
        let request = self
            .request(Method::POST, "jobs/batch")
            .header(header::CONTENT_TYPE, "application/x-ndjson")
            .timeout(ANSWER_WITHIN)
            .body(body);
        let bytes = self.execute_raw(self.build(request)?).await?;
        serde_json::Deserializer::from_slice(&bytes)
            .into_iter()
            .collect::<Result<_, _>>()
            .map_err(|error| self.strange(&error))
    }
}
