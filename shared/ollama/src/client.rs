//! The client of one Ollama host; no other code of Foreman talks to Ollama.
//!
//! Must never follow a redirect, use a proxy, pass on a header of a client, or retry by itself. A failure only has a
//! [kind](Failure::kind) here; the worker decides what it means for a job.

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

/// A host that does not accept a connection within this time is away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Ollama answers listings from memory, even while a model loads.
const LISTING_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest answer that is read as a whole: a listing of a few thousand models.
const MAX_ANSWER: usize = 16 << 20;
/// How much of an error body is read.
pub(crate) const MAX_ERROR: usize = 64 << 10;

/// A client of one Ollama host. Cheap to clone; all clones share their connections.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    host: OllamaHost,
}

/// The client could not be set up. This is a fault of the process, not of any host.
#[derive(Debug, thiserror::Error)]
#[error("the HTTP client for Ollama cannot be set up")]
pub struct ClientError(#[from] reqwest::Error);

impl Client {
    /// The process must have installed a TLS provider before.
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

    /// The version of the Ollama at this host. An answer also proves that an Ollama answers there.
    pub async fn version(&self) -> Result<String, Failure> {
        Ok(self.listing::<Version>("/api/version").await?.version)
    }

    /// The installed models.
    pub async fn tags(&self) -> Result<Vec<InstalledModel>, Failure> {
        Ok(self.listing::<Listing<_>>("/api/tags").await?.models)
    }

    /// The loaded models. The list is empty while a model loads. A name may be missing although its weights are
    /// loaded.
    pub async fn ps(&self) -> Result<Vec<RunningModel>, Failure> {
        Ok(self.listing::<Listing<_>>("/api/ps").await?.models)
    }

    /// Loads a model and returns once it is resident, which is at once for a resident model.
    ///
    /// Dropping the future hangs up. This aborts the load, *and Ollama has still unloaded* the models that were
    /// resident before. So preload only a model that will be used, and never while requests for another load key are
    /// in flight.
    pub async fn preload(&self, key: &LoadKey, route: Route) -> Result<(), Failure> {
        self.empty_request(route, key.preload_body(route)).await
    }

    /// Asks Ollama to unload a model as soon as it is idle. Returns at once, and does no harm if the model is not
    /// loaded.
    pub async fn unload(&self, key: &LoadKey, route: Route) -> Result<(), Failure> {
        self.empty_request(route, key.unload_body(route)).await
    }

    async fn empty_request(&self, route: Route, body: String) -> Result<(), Failure> {
        let answer = self.send(self.post(route.kind().route(), body.into())).await?;
        let body = self.read(answer).await?;
        let text = std::str::from_utf8(&body).unwrap_or_default();
        let members =
            Members::parse(text.trim()).map_err(|error| Failure::Unreadable { what: error.to_string() })?;
        match (members.get("error"), members.get("done")) {
            (Some(error), _) => Err(stream_failure(error.get())),
            (None, Some(done)) if done.get() == "true" => Ok(()),
            (None, None) if route.embeds() && members.get("embeddings").is_some() => Ok(()),
            _ => Err(Failure::EndedEarly),
        }
    }

    async fn listing<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let mut request = self.request(Method::GET, path);
        *request.timeout_mut() = Some(LISTING_TIMEOUT);
        let body = async { self.read(self.send(request).await?).await };
        let body = body.await.map_err(|failure| match failure {
            // No job depends on a listing, so a listing that breaks off means only that the host cannot be reached.
            Failure::ConnectionLost { source } => {
                Failure::Unreachable { host: self.host.to_string(), source }
            }
            failure => failure,
        })?;
        serde_json::from_slice(&body)
            .map_err(|error| Failure::Unreadable { what: format!("{path}: {error}") })
    }

    pub(crate) fn post(&self, route: Route, body: Bytes) -> Request {
        self.request_with(Method::POST, route.path(), body.into())
    }

    pub(crate) fn request_with(&self, method: Method, path: &str, body: reqwest::Body) -> Request {
        let mut request = self.request(method, path);
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
        *request.body_mut() = Some(body);
        request
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> Request {
        let mut request = Request::new(method, self.host.join(path));
        request.headers_mut().insert(header::ACCEPT, header::HeaderValue::from_static("*/*"));
        request
    }

    /// Sends a request and returns the response if its status is 200.
    pub(crate) async fn send(&self, request: Request) -> Result<Response, Failure> {
        let answer = self.execute(request).await?;
        match answer.status() {
            StatusCode::OK => Ok(answer),
            status => {
                let body = self.read_some(answer, MAX_ERROR).await?;
                Err(answer_failure(&self.host.to_string(), status, &body))
            }
        }
    }

    /// Sends a request and returns the response, whatever its status is.
    pub(crate) async fn execute(&self, request: Request) -> Result<Response, Failure> {
        let answer = self.http.execute(request).await.map_err(|error| self.lost(error))?;
        if is_foreman(&answer) {
            return Err(Failure::IsForeman { host: self.host.to_string() });
        }
        Ok(answer)
    }

    /// The beginning of a body. Stops reading at the limit.
    pub(crate) async fn read_some(&self, answer: Response, limit: usize) -> Result<Bytes, Failure> {
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

    /// Distinguishes a host that is away from a connection that broke after the request was sent.
    pub(crate) fn lost(&self, error: reqwest::Error) -> Failure {
        // reqwest's errors contain the URL, which our failure names already.
        let source = error.without_url();
        if source.is_connect() {
            Failure::Unreachable { host: self.host.to_string(), source }
        } else {
            Failure::ConnectionLost { source }
        }
    }
}

/// Foreman's answers look like Ollama's, except for a header that names Foreman.
fn is_foreman(answer: &Response) -> bool {
    answer.headers().get(header::SERVER).is_some_and(|server| server.as_bytes().starts_with(b"foreman"))
}
