//! The api's client for the commands: one function per route, and one sentence per refusal.
//!
//! Nothing here sends a request twice. The caller decides that, because the caller knows whether it is safe.

mod batch;
mod chat;
mod deliveries;
mod endpoints;
mod error;
mod hosts;
mod jobs;
mod models;
mod page;
mod queue;
mod usage;

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use foreman_runtime::{Env, settings::cli};
use foreman_store::{EndpointId, InvalidId, JobId};
use reqwest::header::{self, HeaderName, HeaderValue};
use reqwest::{Method, RequestBuilder, StatusCode, redirect};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use url::Url;

pub(crate) use batch::LineReply;
pub(crate) use deliveries::Delivery;
pub(crate) use endpoints::{Endpoint, ExampleAnswer};
pub(crate) use error::ApiError;
pub(crate) use hosts::Host;
pub(crate) use jobs::{Artifact, Event, Filter, Job};
pub(crate) use models::Unloading;
pub(crate) use queue::{LaterTurn, Loaded, Queue, QueueClient, QueueHost, QueueModel};
pub(crate) use usage::{Sum, UsageQuery};

const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// For replies that do not wait for a job.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// How long to wait where a reply says "later" and has no `Retry-After`.
const LATER: Duration = Duration::from_secs(1);

/// Names the user for whom a client asks.
const USER: HeaderName = HeaderName::from_static("x-foreman-user");

pub(crate) struct Api {
    http: reqwest::Client,
    /// Ends in a slash.
    base: Url,
    authorization: Option<HeaderValue>,
    /// For which of the client's users the requests are.
    user: Option<HeaderValue>,
}

/// A reply, and its JSON as it came, for users who asked for that.
pub(crate) struct Reply<T> {
    pub(crate) value: T,
    pub(crate) json: String,
}

impl Api {
    pub(crate) fn from_env(env: &Env) -> anyhow::Result<Self> {
        let base = env.read(&cli::URL, base_url)?;
        let authorization = env.read_optional(&cli::API_KEY, bearer)?;
        // Never follow a redirect, because it would carry the key to another host.
        let mut http =
            reqwest::Client::builder().connect_timeout(CONNECT_WITHIN).redirect(redirect::Policy::none());
        let is_loopback = match base.host() {
            Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
            Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
            Some(url::Host::Domain(name)) => name == "localhost",
            None => false,
        };
        if is_loopback {
            // A proxy for the world outside cannot lead back to this machine.
            http = http.no_proxy();
        }
        Ok(Self { http: http.build()?, base, authorization, user: None })
    }

    /// The same for one of the client's users.
    pub(crate) fn for_user(self, user: Option<HeaderValue>) -> Self {
        Self { user, ..self }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        // Joining a relative path to a base that ends in a slash cannot fail.
        let url = self.base.join(path).unwrap_or_else(|_| self.base.clone());
        self.request_url(method, url)
    }

    /// A request to a path of which a part may be any text: each part is escaped.
    fn request_to(&self, method: Method, parts: &[&str]) -> RequestBuilder {
        let mut url = self.base.clone();
        // Only a URL without a host has no path, and `base_url` accepts none.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(parts);
        }
        self.request_url(method, url)
    }

    fn request_url(&self, method: Method, url: Url) -> RequestBuilder {
        let mut request = self.http.request(method, url);
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization.clone());
        }
        if let Some(user) = &self.user {
            request = request.header(USER, user.clone());
        }
        request
    }

    fn build(&self, request: RequestBuilder) -> Result<reqwest::Request, ApiError> {
        request.build().map_err(|error| self.strange(&error))
    }

    async fn send<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<Reply<T>, ApiError> {
        self.execute(self.build(request)?).await
    }

    async fn send_query<T: DeserializeOwned>(
        &self,
        request: RequestBuilder,
        query: impl IntoIterator<Item = (&str, impl AsRef<str>)>,
    ) -> Result<Reply<T>, ApiError> {
        let mut request = self.build(request)?;
        request.url_mut().query_pairs_mut().extend_pairs(query);
        self.execute(request).await
    }

    async fn execute<T: DeserializeOwned>(&self, request: reqwest::Request) -> Result<Reply<T>, ApiError> {
        let json =
            String::from_utf8(self.execute_raw(request).await?).map_err(|error| self.strange(&error))?;
        let value = serde_json::from_str(&json).map_err(|error| self.strange(&error))?;
        Ok(Reply { value, json })
    }

    async fn execute_raw(&self, request: reqwest::Request) -> Result<Vec<u8>, ApiError> {
        let answer = self.http.execute(request).await.map_err(|error| self.unanswered(&error))?;
        let status = answer.status();
        let retry_after =
            answer.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let bytes = answer.bytes().await.map_err(|error| self.unanswered(&error))?;
        if status.is_success() {
            return Ok(bytes.into());
        }
        #[derive(Deserialize)]
        struct Problem {
            error: String,
        }
        let problem = serde_json::from_slice(&bytes).ok().map(|Problem { error }| error);
        Err(self.refusal(status, problem, retry_after.map_or(LATER, Duration::from_secs)))
    }

    /// `problem` is the sentence of Foreman's api. `None` means that something else answered, such as a gateway.
    fn refusal(&self, status: StatusCode, problem: Option<String>, retry_after: Duration) -> ApiError {
        match (status, problem) {
            (StatusCode::UNAUTHORIZED, Some(error)) => {
                let sentence = format!("{error} (FOREMAN_API_KEY is what this program sends)");
                ApiError::Refused { status, sentence }
            }
            (StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE, Some(sentence)) => {
                ApiError::Busy { status, sentence, retry_after }
            }
            (_, Some(sentence)) => ApiError::Refused { status, sentence },
            (StatusCode::TOO_MANY_REQUESTS, None) => {
                let sentence = format!("a gateway at {} lets no more requests through for now", self.base);
                ApiError::Busy { status, sentence, retry_after }
            }
            (StatusCode::PAYLOAD_TOO_LARGE, None) => {
                let sentence = format!(
                    "a gateway at {} lets no request of this size through; raise its limit",
                    self.base
                );
                ApiError::Refused { status, sentence }
            }
            (_, None) if matches!(status.as_u16(), 502..=504) => {
                ApiError::Lost { base: self.base.clone(), reason: format!("a gateway answers {status}") }
            }
            (_, None) => self.strange(&format_args!("it answers {status}")),
        }
    }

    fn unanswered(&self, error: &reqwest::Error) -> ApiError {
        let base = self.base.clone();
        let reason = if error.is_timeout() { "no answer in time".to_owned() } else { innermost(error) };
        if error.is_connect() { ApiError::Away { base, reason } } else { ApiError::Lost { base, reason } }
    }

    pub(crate) fn strange(&self, reason: &dyn Display) -> ApiError {
        ApiError::Strange { base: self.base.clone(), reason: reason.to_string() }
    }
}

/// Parses a job's id among the arguments.
pub(crate) fn job_id(text: &str) -> Result<String, String> {
    id::<JobId>(text, "foreman submit")
}

/// Parses an endpoint's id among the arguments.
pub(crate) fn endpoint_id(text: &str) -> Result<String, String> {
    id::<EndpointId>(text, "foreman webhook list")
}

/// The canonical text of an id that some command prints. No other text becomes part of a path.
fn id<I: FromStr<Err = InvalidId> + Display>(text: &str, printed_by: &str) -> Result<String, String> {
    match text.parse::<I>() {
        Ok(id) => Ok(id.to_string()),
        Err(error) => Err(format!("{error}, as `{printed_by}` prints it")),
    }
}

/// Ends the URL with a slash, because joining a route would otherwise replace a prefix.
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

fn bearer(key: &str) -> Result<HeaderValue, String> {
    let mut bearer = HeaderValue::from_str(&format!("Bearer {key}"))
        .map_err(|_| "expected the one line that `foreman client create` printed as the key".to_owned())?;
    bearer.set_sensitive(true);
    Ok(bearer)
}

/// The last cause of an error: "connection refused" says more than the layers around it.
pub(crate) fn innermost(error: &reqwest::Error) -> String {
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
        for text in ["", "..", "x/cancel", "01jd8z6q2m5v0r3n7k4t9w1xya"] {
            job_id(text).unwrap_err();
        }
    }
}
