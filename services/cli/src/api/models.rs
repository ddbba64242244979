//! What is asked of the scheduler for a model.

use reqwest::Method;
use serde::Deserialize;
use serde_json::json;

use super::{ANSWER_WITHIN, Api, ApiError, Reply};

#[derive(Deserialize)]
struct Accepted {
    job_id: String,
}

/// What is to be unloaded, and where.
#[derive(Deserialize)]
pub(crate) struct Unloading {
    pub(crate) model: String,
    pub(crate) hosts: Vec<String>,
}

impl Api {
    /// Has a model loaded, now or at a time. Returns the id of the job that loads it.
    pub(crate) async fn warm(&self, model: &str, run_at: Option<&str>) -> Result<String, ApiError> {
        let request = self.request_to(Method::POST, &["models", model, "warm"]).timeout(ANSWER_WITHIN);
        let accepted: Reply<Accepted> =
            self.send(request.body(json!({ "run_at": run_at }).to_string())).await?;
        Ok(accepted.value.job_id)
    }

    /// Has a model unloaded on every host that has it.
    pub(crate) async fn unload(&self, model: &str) -> Result<Reply<Unloading>, ApiError> {
        self.send(self.request_to(Method::POST, &["models", model, "unload"]).timeout(ANSWER_WITHIN)).await
    }
}
