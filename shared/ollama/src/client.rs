//! The only thing in Foreman that talks to an Ollama.
//!
//! It never follows a redirect, never uses a proxy, never passes on a header of a client's, and never retries by itself: what
//! a failure means for a job is the worker's business; here it has only a [kind](Failure::kind).

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use reqwest::{Method, Request, Response, StatusCode, header};
use serde::de::DeserializeOwned;

use crate::classify::{answer_failure, stream_failure};
use crate::failure::Failure;
use crate::host::OllamaHost;
use crate::load_key::LoadKey;
use crate::object::Members;
use crate::route::Route;
use crate::wire::{InstalledModel, Listing, RunningModel, Version};

/// A host that does not take a connection within this is away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Listings are answered from memory even while a model loads.
const LISTING_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest answer that is read whole: a listing of a few thousand models.
const MAX_ANSWER: usize = 16 << 20;
/// Largest piece of an error that is read.
const MAX_ERROR: usize = 64 << 10;

/// A client of one Ollama host. Cheap to clone; all clones share their connections.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    host: OllamaHost,
}

/// The client could not be made, which is a fault of this process and of no host.
#[derive(Debug, thiserror::Error)]
#[error("the HTTP client for Ollama cannot be set up")]
pub struct ClientError(#[from] reqwest::Error);

impl Client {
    /// Expects the process to have installed a TLS provider.
    pub fn new(host: OllamaHost) -> Result<Self, ClientError> {
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .referer(false)
            .http1_only()
            .tcp_nodelay(true)
            .connect_timeout(CONNECT_TIMEOUT)
            .build()?;
        Ok(Self { http, host })
    }

    pub fn host(&self) -> &OllamaHost {
        &self.host
    }

    /// The version of the Ollama there, and with it the proof that one answers.
    pub async fn version(&self) -> Result<String, Failure> {
        Ok(self.listing::<Version>("/api/version").await?.version)
    }

    /// The models that are installed.
    pub async fn tags(&self) -> Result<Vec<InstalledModel>, Failure> {
        Ok(self.listing::<Listing<_>>("/api/tags").await?.models)
    }

    /// The models that are loaded. Empty while one loads; a name may be missing though its weights are there.
    pub async fn ps(&self) -> Result<Vec<RunningModel>, Failure> {
        Ok(self.listing::<Listing<_>>("/api/ps").await?.models)
    }

    /// Loads a model and returns once it is resident; a resident one answers at once.
    ///
    /// Dropping the future hangs up, which aborts the load *and still throws out* what was resident before: only ever ask
    /// for what will be used, and never while requests for another key are in flight.
    pub async fn preload(&self, key: &LoadKey, route: Route) -> Result<(), Failure> {
        self.empty_request(route, key.preload_body(route)).await
    }

    /// Throws a model out as soon as it is idle, and returns at once. One that is not loaded is fine too.
    pub async fn unload(&self, key: &LoadKey, route: Route) -> Result<(), Failure> {
        self.empty_request(route, key.unload_body(route)).await
    }

    async fn empty_request(&self, route: Route, body: String) -> Result<(), Failure> {
        let answer = self.send(self.post(route, body.into())).await?;
        let body = self.read(answer).await?;
        let text = std::str::from_utf8(&body).unwrap_or_default();
        let members =
            Members::parse(text.trim()).map_err(|error| Failure::Unreadable { what: error.to_string() })?;
        match (members.get("error"), members.get("done")) {
            (Some(error), _) => Err(stream_failure(error.get())),
            (None, Some(done)) if done.get() == "true" => Ok(()),
            _ => Err(Failure::EndedEarly),
        }
    }

    async fn listing<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let mut request = self.request(Method::GET, path);
        *request.timeout_mut() = Some(LISTING_TIMEOUT);
        let body = async { self.read(self.send(request).await?).await };
        let body = body.await.map_err(|failure| match failure {
            // No job hangs on a listing: whatever breaks it off, it is the host that cannot be reached.
            Failure::ConnectionLost { source } => {
                Failure::Unreachable { host: self.host.to_string(), source }
            }
            failure => failure,
        })?;
        serde_json::from_slice(&body)
            .map_err(|error| Failure::Unreadable { what: format!("{path}: {error}") })
    }

    pub(crate) fn post(&self, route: Route, body: Bytes) -> Request {
        let mut request = self.request(Method::POST, route.path());
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
        *request.body_mut() = Some(body.into());
        request
    }

    fn request(&self, method: Method, path: &str) -> Request {
        let mut request = Request::new(method, self.host.join(path));
        request.headers_mut().insert(header::ACCEPT, header::HeaderValue::from_static("*/*"));
        request
    }

    /// Sends a request and returns its answer if that is a 200.
    pub(crate) async fn send(&self, request: Request) -> Result<Response, Failure> {
        let answer = self.http.execute(request).await.map_err(|error| self.lost(error))?;
        if is_foreman(&answer) {
            return Err(Failure::IsForeman { host: self.host.to_string() });
        }
        match answer.status() {
            StatusCode::OK => Ok(answer),
            status => {
                let body = self.read_some(answer, MAX_ERROR).await?;
                Err(answer_failure(&self.host.to_string(), status, &body))
            }
        }
    }

    /// The beginning of a body. What comes after the limit is not waited for.
    async fn read_some(&self, answer: Response, limit: usize) -> Result<Bytes, Failure> {
        let mut stream = answer.bytes_stream();
        let mut body = BytesMut::new();
        while body.len() < limit
            && let Some(piece) = stream.next().await
        {
            body.extend_from_slice(&piece.map_err(|error| self.lost(error))?);
        }
        Ok(body.freeze())
    }

    async fn read(&self, answer: Response) -> Result<Bytes, Failure> {
        let body = self.read_some(answer, MAX_ANSWER).await?;
        if body.len() >= MAX_ANSWER {
            return Err(Failure::Unreadable { what: format!("it is larger than {MAX_ANSWER} bytes") });
        }
        Ok(body)
    }

    /// Tells a host that is away from a connection that broke once the request was on its way.
    pub(crate) fn lost(&self, error: reqwest::Error) -> Failure {
        // The errors carry the URL, which the failure says already.
        let source = error.without_url();
        if source.is_connect() {
            Failure::Unreachable { host: self.host.to_string(), source }
        } else {
            Failure::ConnectionLost { source }
        }
    }
}

/// Foreman answers much as Ollama does, and says who it is in a header.
fn is_foreman(answer: &Response) -> bool {
    answer.headers().get(header::SERVER).is_some_and(|server| server.as_bytes().starts_with(b"foreman"))
}
