//! What clients, users and models have used.

use reqwest::Method;
use serde::Deserialize;

use super::{ANSWER_WITHIN, Api, ApiError, Reply};

/// Which hours are summed up, and how.
pub(crate) struct UsageQuery {
    pub(crate) by: String,
    pub(crate) from: Option<String>,
    pub(crate) to: Option<String>,
    pub(crate) limit: usize,
}

#[derive(Deserialize)]
pub(crate) struct Usage {
    pub(crate) data: Vec<Sum>,
    pub(crate) has_more: bool,
}

/// Of `client`, `user`, `model` and `hour` those are there that tell the sums apart.
#[derive(Deserialize)]
pub(crate) struct Sum {
    pub(crate) client: Option<String>,
    pub(crate) user: Option<String>,
    pub(crate) model: Option<String>,
    pub(crate) hour: Option<String>,
    pub(crate) jobs: EndedJobs,
    pub(crate) gpu_seconds: f64,
    pub(crate) loads: u64,
    pub(crate) prompt_tokens: u64,
    pub(crate) completion_tokens: u64,
}

#[derive(Deserialize)]
pub(crate) struct EndedJobs {
    pub(crate) done: u64,
    pub(crate) failed: u64,
    pub(crate) cancelled: u64,
    pub(crate) expired: u64,
}

impl Api {
    pub(crate) async fn usage(&self, query: &UsageQuery) -> Result<Reply<Usage>, ApiError> {
        let limit = query.limit.to_string();
        let query = [
            ("by", Some(query.by.as_str())),
            ("from", query.from.as_deref()),
            ("to", query.to.as_deref()),
            ("limit", Some(&limit)),
        ];
        let query = query.into_iter().filter_map(|(name, value)| Some((name, value?)));
        self.send_query(self.request(Method::GET, "usage").timeout(ANSWER_WITHIN), query).await
    }
}
