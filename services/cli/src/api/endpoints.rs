//! Registered endpoints.

use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::Method;
use serde::Deserialize;
use serde_json::Value;

use super::page::{LARGEST_PAGE, Page};
use super::{ANSWER_WITHIN, Api, ApiError, Reply};

/// An example takes as long as the receiver takes to answer.
const EXAMPLE_WITHIN: Duration = Duration::from_secs(120);

/// A recovery goes through all jobs since then.
const RECOVERY_WITHIN: Duration = Duration::from_secs(600);

#[derive(Deserialize)]
pub(crate) struct Endpoint {
    pub(crate) endpoint_id: String,
    pub(crate) url: String,
    pub(crate) description: String,
    pub(crate) events: Option<Vec<String>>,
    pub(crate) models: Option<Vec<String>>,
    pub(crate) header_names: Vec<String>,
    pub(crate) rate_limit: Option<u32>,
    pub(crate) disabled_because: Option<String>,
    pub(crate) secret_hint: String,
    pub(crate) previous_secret_until: Option<DateTime<Utc>>,
    pub(crate) created_at: DateTime<Utc>,
    /// Only where it was made just now.
    pub(crate) secret: Option<String>,
    /// Only where a single endpoint was asked for.
    pub(crate) health: Option<Health>,
}

#[derive(Deserialize)]
pub(crate) struct Health {
    pub(crate) state: String,
    pub(crate) held_until: Option<DateTime<Utc>>,
    pub(crate) last_error: Option<String>,
    pub(crate) pending: u64,
    pub(crate) oldest_due_at: Option<DateTime<Utc>>,
}

#[derive(Deserialize)]
pub(crate) struct ExampleAnswer {
    pub(crate) delivered: bool,
    pub(crate) status: Option<u16>,
    pub(crate) error_code: Option<String>,
    pub(crate) latency_ms: u64,
}

#[derive(Deserialize)]
pub(crate) struct Recovered {
    pub(crate) recovered: u64,
}

impl Api {
    pub(crate) async fn create_endpoint(&self, fields: &Value) -> Result<Reply<Endpoint>, ApiError> {
        let request = self.request(Method::POST, "webhooks").timeout(ANSWER_WITHIN);
        self.send(request.body(fields.to_string())).await
    }

    pub(crate) async fn endpoint(&self, id: &str) -> Result<Reply<Endpoint>, ApiError> {
        self.send(self.request(Method::GET, &format!("webhooks/{id}")).timeout(ANSWER_WITHIN)).await
    }

    pub(crate) async fn change_endpoint(
        &self,
        id: &str,
        fields: &Value,
    ) -> Result<Reply<Endpoint>, ApiError> {
        let request = self.request(Method::PATCH, &format!("webhooks/{id}")).timeout(ANSWER_WITHIN);
        self.send(request.body(fields.to_string())).await
    }

    pub(crate) async fn delete_endpoint(&self, id: &str) -> Result<(), ApiError> {
        let request = self.request(Method::DELETE, &format!("webhooks/{id}")).timeout(ANSWER_WITHIN);
        self.execute_raw(self.build(request)?).await.map(drop)
    }

    /// A page of them, newest first.
    pub(crate) async fn endpoints(&self, after: Option<&str>) -> Result<Page, ApiError> {
        self.page("webhooks", LARGEST_PAGE, &[], after).await
    }

    pub(crate) async fn rotate_endpoint(
        &self,
        id: &str,
        fields: &Value,
    ) -> Result<Reply<Endpoint>, ApiError> {
        self.send(self.action(id, "rotate", fields, ANSWER_WITHIN)).await
    }

    pub(crate) async fn send_example(
        &self,
        id: &str,
        fields: &Value,
    ) -> Result<Reply<ExampleAnswer>, ApiError> {
        self.send(self.action(id, "test", fields, EXAMPLE_WITHIN)).await
    }

    pub(crate) async fn recover_endpoint(
        &self,
        id: &str,
        fields: &Value,
    ) -> Result<Reply<Recovered>, ApiError> {
        self.send(self.action(id, "recover", fields, RECOVERY_WITHIN)).await
    }

    fn action(&self, id: &str, action: &str, fields: &Value, within: Duration) -> reqwest::RequestBuilder {
        let request = self.request(Method::POST, &format!("webhooks/{id}/{action}"));
        request.timeout(within).body(fields.to_string())
    }
}
