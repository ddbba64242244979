//! The workers as an api knows them: the addresses of their streams, and the client that talks to them.
//!
//! Must never talk to an Ollama: everything goes through a worker.

use std::time::Duration;

use foreman_live::Bearer;
use foreman_runtime::background::jittered;
use foreman_runtime::{background_error, stalls};
use foreman_store::{Store, StreamAddress, wake::Topic};
use reqwest::{Method, RequestBuilder, header};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// How often we look for new workers. A worker that starts is known after this time at the latest.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// A worker on the same network accepts a connection faster than this, or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Cheap to clone; all clones share their connections.
#[derive(Clone)]
pub(crate) struct Workers {
    http: reqwest::Client,
    bearer: Option<Bearer>,
    addresses: watch::Sender<Vec<StreamAddress>>,
}

impl Workers {
    /// The process must have installed a TLS provider before.
    pub(crate) fn new(bearer: Option<Bearer>) -> reqwest::Result<Self> {
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .referer(false)
            .http1_only()
            .tcp_nodelay(true)
            .connect_timeout(CONNECT_TIMEOUT)
            .build()?;
        Ok(Self { http, bearer, addresses: watch::Sender::default() })
    }

    /// The addresses of all workers that have a row, dead ones included.
    pub(crate) fn addresses(&self) -> watch::Receiver<Vec<StreamAddress>> {
        self.addresses.subscribe()
    }

    /// A request to a worker's stream address.
    pub(crate) fn request(&self, method: Method, url: &str, path_and_query: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path_and_query}", url.trim_end_matches('/')));
        match &self.bearer {
            Some(bearer) => request.header(header::AUTHORIZATION, bearer.header()),
            None => request,
        }
    }

    /// Looks for workers again and again, until `stop`. A worker that lists its models for the first time is looked for at
    /// once: from then on it may have jobs.
    pub(crate) async fn run(&self, store: &Store, stop: &CancellationToken) {
        let mut published = store.wakeups().subscribe(Topic::Published);
        loop {
            match stalls::round("workers", stalls::USUAL, store.stream_addresses()).await {
                Ok(found) => {
                    _ = self.addresses.send_if_modified(|known| {
                        let differs = *known != found;
                        *known = found;
                        differs
                    })
                }
                Err(error) => background_error!("workers", error, "the workers could not be read"),
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = published.changed() => {}
                () = sleep(jittered(LOOK_EVERY)) => {}
            }
        }
    }
}
