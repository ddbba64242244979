//! The api as the commands of a client call it: one function a route, and every refusal as one sentence.

use std::time::Duration;

use anyhow::{Context as _, bail};
use foreman_runtime::config::form;
use foreman_runtime::{Env, settings::cli};
use reqwest::{Method, RequestBuilder, StatusCode, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use url::{Host, Url};

const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Of an answer that does not wait for a job.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// How long one request waits for a job; the api allows 60.
const WAIT_SECONDS: u64 = 30;

pub(crate) struct Api {
    http: reqwest::Client,
    base: Url,
    key: Option<String>,
}

/// A job, as far as the command line looks into it.
#[derive(Deserialize)]
pub(crate) struct Job {
    pub(crate) state: String,
    pub(crate) seq: i64,
    pub(crate) error: Option<String>,
    pub(crate) result: Option<Box<RawValue>>,
    #[serde(default)]
    pub(crate) artifacts: Vec<Artifact>,
}

#[derive(Deserialize)]
pub(crate) struct Artifact {
    pub(crate) name: String,
    pub(crate) url: Option<String>,
}

#[derive(Deserialize)]
pub(crate) struct Event {
    pub(crate) seq: i64,
    pub(crate) state: String,
    pub(crate) timestamp: String,
    pub(crate) attempt: i64,
    pub(crate) error: Option<String>,
}

/// An answer and its bytes, which are passed on as they came.
pub(crate) struct Answer<T> {
    pub(crate) value: T,
    pub(crate) bytes: Vec<u8>,
}

/// Why a request has no answer to use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// It may be there again in a moment.
    #[error("{base} cannot be reached ({reason}); start it with `foreman up`, or set FOREMAN_URL")]
    Away { base: Url, reason: String },
    /// In the api's own words; nothing was accepted.
    #[error("{sentence}")]
    Busy { sentence: String, retry_after: Duration },
    /// In the api's own words.
    #[error("{0}")]
    Refused(String),
    #[error("what answers at {base} is not Foreman's api ({reason}); set FOREMAN_URL to the api")]
    Strange { base: Url, reason: String },
}

impl Api {
    pub(crate) fn from_env(env: &Env) -> anyhow::Result<Self> {
        let base = env.read(&cli::URL, base_url)?;
        let key = env.read_optional(&cli::API_KEY, form::text)?;
        let mut http = reqwest::Client::builder().connect_timeout(CONNECT_WITHIN);
        let is_loopback = match base.host() {
            Some(Host::Ipv4(ip)) => ip.is_loopback(),
            Some(Host::Ipv6(ip)) => ip.is_loopback(),
            Some(Host::Domain(name)) => name == "localhost",
            None => false,
        };
        if is_loopback {
            // What is set for the world outside cannot lead back to this machine.
            http = http.no_proxy();
        }
        Ok(Self { http: http.build()?, base, key })
    }

    /// The id of the job that was made, or, for a key that was used before, of the one it made then.
    pub(crate) async fn submit(
        &self,
        body: String,
        idempotency_key: Option<&str>,
    ) -> Result<String, ApiError> {
        #[derive(Deserialize)]
        struct Accepted {
            job_id: String,
        }
        let mut request = self.request(Method::POST, "jobs").header(header::CONTENT_TYPE, "application/json");
        if let Some(key) = idempotency_key {
            request = request.header("idempotency-key", key);
        }
        let accepted: Answer<Accepted> = self.send(request.timeout(ANSWER_WITHIN).body(body)).await?;
        Ok(accepted.value.job_id)
    }

    pub(crate) async fn job(&self, id: &str) -> Result<Answer<Job>, ApiError> {
        self.send(self.request(Method::GET, &job_path(id)).timeout(ANSWER_WITHIN)).await
    }

    /// The job once it has gone past `seq`, or as it is after a while.
    pub(crate) async fn job_after(&self, id: &str, seq: i64) -> Result<Answer<Job>, ApiError> {
        let query = [("wait", WAIT_SECONDS.to_string()), ("after_seq", seq.to_string())];
        let mut request = self.request(Method::GET, &job_path(id));
        request = request.timeout(ANSWER_WITHIN + Duration::from_secs(WAIT_SECONDS));
        let mut request = request.build().map_err(|error| self.strange(&error))?;
        request.url_mut().query_pairs_mut().extend_pairs(query);
        self.execute(request).await
    }

    /// The job's history.
    pub(crate) async fn events(&self, id: &str) -> Result<Vec<Event>, ApiError> {
        #[derive(Deserialize)]
        struct Events {
            data: Vec<Event>,
        }
        let path = format!("{}/events", job_path(id));
        let events: Answer<Events> =
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

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        // Joining a relative path to a base that ends in a slash cannot fail.
        let url = self.base.join(path).unwrap_or_else(|_| self.base.clone());
        let request = self.http.request(method, url);
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    async fn send<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<Answer<T>, ApiError> {
        self.execute(request.build().map_err(|error| self.strange(&error))?).await
    }

    async fn execute<T: DeserializeOwned>(&self, request: reqwest::Request) -> Result<Answer<T>, ApiError> {
        let bytes = self.execute_raw(request).await?;
        let value = serde_json::from_slice(&bytes).map_err(|error| self.strange(&error))?;
        Ok(Answer { value, bytes })
    }

    async fn execute_raw(&self, request: reqwest::Request) -> Result<Vec<u8>, ApiError> {
        let answer = self.http.execute(request).await.map_err(|error| self.away(&error))?;
        let status = answer.status();
        let retry_after =
            answer.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let bytes = answer.bytes().await.map_err(|error| self.away(&error))?;
        if status.is_success() {
            return Ok(bytes.into());
        }
        #[derive(Deserialize)]
        struct Problem {
            error: String,
        }
        match serde_json::from_slice(&bytes) {
            Ok(Problem { error }) if status == StatusCode::UNAUTHORIZED => {
                Err(ApiError::Refused(format!("{error} (FOREMAN_API_KEY is what this program sends)")))
            }
            Ok(Problem { error }) => Err(match retry_after {
                Some(seconds) => {
                    ApiError::Busy { sentence: error, retry_after: Duration::from_secs(seconds) }
                }
                None => ApiError::Refused(error),
            }),
            Err(_) if matches!(status.as_u16(), 502..=504) => {
                Err(ApiError::Away { base: self.base.clone(), reason: format!("a gateway answers {status}") })
            }
            Err(_) => Err(self.strange(&format_args!("it answers {status}"))),
        }
    }

    fn away(&self, error: &reqwest::Error) -> ApiError {
        let reason = match error {
            error if error.is_timeout() => "no answer in time".to_owned(),
            error if error.is_connect() => innermost(error),
            error => innermost(error),
        };
        ApiError::Away { base: self.base.clone(), reason }
    }

    fn strange(&self, reason: &dyn std::fmt::Display) -> ApiError {
        ApiError::Strange { base: self.base.clone(), reason: reason.to_string() }
    }
}

fn job_path(id: &str) -> String {
    // An id is one path segment whatever is in it.
    let mut path = String::from("jobs/");
    path.extend(url::form_urlencoded::byte_serialize(id.as_bytes()));
    path
}

/// With a slash at its end, so that routes are joined behind a prefix.
fn base_url(text: &str) -> Result<Url, String> {
    let mut url = Url::parse(text)
        .map_err(|error| format!("expected a URL such as http://127.0.0.1:8080 ({error})"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err("expected a URL such as http://127.0.0.1:8080".to_owned());
    }
    let path = format!("{}/", url.path().trim_end_matches('/'));
    url.set_path(&path);
    Ok(url)
}

/// "connection refused" says more than the layers around it.
fn innermost(error: &reqwest::Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_keeps_its_prefix() {
        for (text, url) in [
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080/"),
            ("https://example.org/foreman", "https://example.org/foreman/"),
            ("https://example.org/foreman//", "https://example.org/foreman/"),
        ] {
            assert_eq!(base_url(text).unwrap().as_str(), url);
        }
        for text in ["127.0.0.1:8080", "ftp://x", "", "http://"] {
            base_url(text).unwrap_err();
        }
        assert_eq!(
            base_url("http://x/a").unwrap().join(&job_path("../b c")).unwrap().as_str(),
            "http://x/a/jobs/..%2Fb+c"
        );
    }
}
