//! Jobs: submitted, looked at, listed, cancelled, retried.

use std::time::Duration;

use anyhow::{Context as _, bail};
use chrono::{DateTime, Utc};
use reqwest::{Method, header};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::page::Page;
use super::{ANSWER_WITHIN, Api, ApiError, Reply};

/// How long one request waits for a job; the api allows 60.
const WAIT_SECONDS: u64 = 30;

/// A job, as far as the command line looks into it.
#[derive(Deserialize)]
pub(crate) struct Job {
    pub(crate) job_id: String,
    pub(crate) state: String,
    pub(crate) model: String,
    pub(crate) seq: i64,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) started_at: Option<DateTime<Utc>>,
    pub(crate) completed_at: Option<DateTime<Utc>>,
    pub(crate) run_at: Option<DateTime<Utc>>,
    pub(crate) cancel_requested: bool,
    pub(crate) timing: Timing,
    pub(crate) error: Option<String>,
    pub(crate) result: Option<Box<RawValue>>,
    #[serde(default)]
    pub(crate) artifacts: Vec<Artifact>,
}

/// Of the last attempt; what it has not come to yet is unknown.
#[derive(Deserialize)]
pub(crate) struct Timing {
    pub(crate) wait_ms: Option<u64>,
    pub(crate) load_ms: Option<u64>,
    pub(crate) run_ms: Option<u64>,
}

#[derive(Deserialize)]
pub(crate) struct Artifact {
    pub(crate) name: String,
    /// Either this or `url` is there.
    pub(crate) data: Option<String>,
    pub(crate) url: Option<String>,
}

#[derive(Deserialize)]
pub(crate) struct Event {
    pub(crate) seq: i64,
    pub(crate) state: String,
    pub(crate) timestamp: DateTime<Utc>,
    pub(crate) attempt: i64,
    pub(crate) error: Option<String>,
}

/// Which jobs are listed.
#[derive(Default)]
pub(crate) struct Filter {
    pub(crate) state: Option<String>,
    pub(crate) model: Option<String>,
}

#[derive(Deserialize)]
struct Accepted {
    job_id: String,
}

impl Api {
    /// The id of the job that was made, or, for a key that was used before, of the one it made then.
    pub(crate) async fn submit(&self, body: String, idempotency_key: &str) -> Result<String, ApiError> {
        let request = self
            .request(Method::POST, "jobs")
            .header(header::CONTENT_TYPE, "application/json")
            .header("idempotency-key", idempotency_key);
        let accepted: Reply<Accepted> = self.send(request.timeout(ANSWER_WITHIN).body(body)).await?;
        Ok(accepted.value.job_id)
    }

    pub(crate) async fn job(&self, id: &str) -> Result<Reply<Job>, ApiError> {
        self.send(self.request(Method::GET, &format!("jobs/{id}")).timeout(ANSWER_WITHIN)).await
    }

    /// The job once it has gone past `seq`, or as it is after a while.
    pub(crate) async fn job_after(&self, id: &str, seq: i64) -> Result<Reply<Job>, ApiError> {
        let query = [("wait", WAIT_SECONDS.to_string()), ("after_seq", seq.to_string())];
        let request = self.request(Method::GET, &format!("jobs/{id}"));
        let request = request.timeout(ANSWER_WITHIN + Duration::from_secs(WAIT_SECONDS));
        self.send_query(request, query).await
    }

    /// At most `limit` jobs, newest first; a page can be short, even empty, and still have a next.
    pub(crate) async fn jobs(
        &self,
        filter: &Filter,
        limit: usize,
        after: Option<&str>,
    ) -> Result<Page, ApiError> {
        let filters = [("state", filter.state.as_deref()), ("model", filter.model.as_deref())];
        self.page("jobs", limit, &filters, after).await
    }

    /// The job as it stands then: one that a worker holds is cancelled a moment later.
    pub(crate) async fn cancel(&self, id: &str) -> Result<Reply<Job>, ApiError> {
        let path = format!("jobs/{id}/cancel");
        self.send(self.request(Method::POST, &path).timeout(ANSWER_WITHIN)).await
    }

    /// The id of a new job like this one. Asked twice, it makes two.
    pub(crate) async fn retry(&self, id: &str) -> Result<String, ApiError> {
        let path = format!("jobs/{id}/retry");
        let accepted: Reply<Accepted> =
            self.send(self.request(Method::POST, &path).timeout(ANSWER_WITHIN)).await?;
        Ok(accepted.value.job_id)
    }

    /// The job's history.
    pub(crate) async fn events(&self, id: &str) -> Result<Vec<Event>, ApiError> {
        #[derive(Deserialize)]
        struct Events {
            data: Vec<Event>,
        }
        let path = format!("jobs/{id}/events");
        let events: Reply<Events> =
            self.send(self.request(Method::GET, &path).timeout(ANSWER_WITHIN)).await?;
        Ok(events.value.data)
    }

    /// The bytes behind an artifact's URL, which may be relative.
    pub(crate) async fn artifact(&self, url: &str) -> anyhow::Result<Vec<u8>> {
        let url = self.base.join(url.trim_start_matches('/')).context("the artifact's URL cannot be read")?;
        if url.origin() != self.base.origin() {
            bail!("the artifact is at {url}, not at FOREMAN_URL; fetch it there");
        }
        let mut request = self.request(Method::GET, "").build()?;
        *request.url_mut() = url;
        Ok(self.execute_raw(request).await?)
    }
}
