//! Many jobs in one request.

use std::time::Duration;

use reqwest::{Method, header};
use serde::Deserialize;

use super::{Api, ApiError};

/// The body alone may take a while on a slow line.
const ANSWER_WITHIN: Duration = Duration::from_secs(180);

/// What became of one line.
#[derive(Debug, Deserialize)]
pub(crate) struct Answered {
    /// From 1, of those that were sent.
    pub(crate) line: usize,
    pub(crate) status: u16,
    pub(crate) job_id: Option<String>,
    pub(crate) error: Option<String>,
}

impl Api {
    /// Each line of `body` is one job.
    pub(crate) async fn submit_batch(&self, body: String) -> Result<Vec<Answered>, ApiError> {
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
