//! One request to one receiver, from the dial to the status. Whatever the receiver does, the request ends in time, reads only
//! a little of the answer, and goes nowhere else.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use foreman_store::Clock;
use foreman_webhook::guard::classify;
use foreman_webhook::{Failure, Guard, Reaction, sign};
use metrics::counter;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT};
use reqwest::{Client, Method, Request, Response, redirect::Policy};
use tokio::time::{Instant, timeout_at};

use super::destination::Destinations;
use super::receivers::Address;
use super::resolver::{GuardedResolver, on_behalf_of};
use super::{UNSIGNED, failure};
use crate::config::Webhooks;

/// Bytes of the answer's body that are kept for people to look at.
const KEPT: usize = 1_024;

/// Bytes of the answer's body that are read. The connection of a longer answer is closed and not used again.
const READ_AT_MOST: usize = 64 * 1_024;

/// Each attempt draws its own limit, between one and this many timeouts. Otherwise a thousand attempts that began together
/// would time out in one moment, and other webhooks would wait until all their reports are written.
const LONGEST: f64 = 1.2;

/// How long the body may take after the status has come. The body decides nothing.
const READ_FOR: Duration = Duration::from_secs(2);

/// Shorter than the 60 s and more after which servers and firewalls drop an idle connection.
const KEEP_IDLE: Duration = Duration::from_secs(30);

const AGENT: &str = concat!("foreman/", env!("CARGO_PKG_VERSION"), " (webhooks)");

/// Signs webhooks and sends them. Cheap to clone: all clones share their connections, and what they know of names.
#[derive(Debug, Clone)]
pub(crate) struct Sender {
    client: Client,
    guard: Guard,
    destinations: Destinations,
    timeout: Duration,
    clock: Clock,
}

/// What one request brings to its receiver.
#[derive(Debug)]
pub(super) struct Webhook<'a> {
    pub(super) job_id: &'a str,
    pub(super) seq: i32,
    pub(super) body: Bytes,
    /// The submitter's.
    pub(super) traceparent: Option<&'a str>,
}

/// What came back for a request.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) reaction: Reaction,
    /// The first bytes of the answer, only if the receiver has a public address: a client must not read what servers in a
    /// private network answer.
    pub(super) response: Option<Vec<u8>>,
    /// The answer went on for longer than [`READ_FOR`].
    pub(super) was_cut_off: bool,
}

impl Sender {
    /// The process must have installed a TLS provider before.
    pub(crate) fn new(settings: &Webhooks, clock: Clock) -> reqwest::Result<Self> {
        let (guard, destinations) = (Guard::new(settings.policy.clone()), Destinations::default());
        let client = Client::builder()
            .http1_only()
            .redirect(Policy::none())
            .referer(false)
            .no_proxy()
            .tcp_nodelay(true)
            .pool_idle_timeout(KEEP_IDLE)
            .dns_resolver(GuardedResolver::new(guard.clone(), destinations.clone()))
            .build()?;
        Ok(Self { client, guard, destinations, timeout: settings.timeout, clock })
    }

    /// Where the names led to that were dialled.
    pub(super) fn destinations(&self) -> Destinations {
        self.destinations.clone()
    }

    /// The longest that an attempt may take.
    pub(super) fn longest_attempt(&self) -> Duration {
        self.timeout.mul_f64(LONGEST)
    }

    /// Signs a webhook with the present time, and sends it.
    pub(super) async fn send(&self, address: &Address, webhook: Webhook<'_>) -> Received {
        let Some(url) = &address.url else { return Received::none(Failure::InvalidUrl) };
        let Webhook { job_id, seq, body, traceparent } = webhook;
        let signing = &address.signing;
        if signing.secrets.is_empty() {
            counter!(UNSIGNED.name).increment(1);
        }
        let message = sign::message_id(job_id, seq.into());
        let signature = sign::headers(&signing.secrets, &message, self.clock.now().timestamp(), &body);
        let deadline = Instant::now() + self.timeout.mul_f64(rand::random_range(1.0..=LONGEST));
        // The HTTP client asks the resolver only about names. An address in the URL is checked here.
        if let Err(refused) = self.guard.check(url) {
            return Received::none(Failure::of_url(&refused));
        }
        let mut request = Request::new(Method::POST, url.as_url().clone());
        *request.headers_mut() = headers(&signing.headers, signature, traceparent);
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(AGENT));
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        *request.body_mut() = Some(body.into());
        match timeout_at(deadline, on_behalf_of(address.asker, self.client.execute(request))).await {
            Ok(Ok(response)) => Received::read(response, deadline.min(Instant::now() + READ_FOR)).await,
            Ok(Err(error)) => Received::none(failure::of(&error)),
            Err(_elapsed) => Received::none(Failure::Timeout),
        }
    }
}

impl Received {
    fn none(failure: Failure) -> Self {
        Self { reaction: Reaction::NotAnswered(failure), response: None, was_cut_off: false }
    }

    async fn read(mut response: Response, deadline: Instant) -> Self {
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let reaction = Reaction::answered(response.status().as_u16(), retry_after, SystemTime::now());
        let is_public = response.remote_addr().is_some_and(|address| classify(address.ip()).is_none());
        let mut kept = Vec::new();
        let mut read = 0;
        // A short answer is read to the end, so that the next webhook can use its connection. However the reading ends, the
        // status stands.
        let was_cut_off = loop {
            let chunk = match timeout_at(deadline, response.chunk()).await {
                Ok(Ok(Some(chunk))) => chunk,
                Ok(Ok(None) | Err(_)) => break false,
                Err(_elapsed) => break true,
            };
            let room = KEPT - kept.len();
            kept.extend_from_slice(&chunk[..chunk.len().min(room)]);
            read += chunk.len();
            if read > READ_AT_MOST {
                break false;
            }
        };
        Self { reaction, response: is_public.then_some(kept), was_cut_off }
    }
}

/// The client's own headers, those of the signature, and the submitter's `traceparent` if it fits into a header.
fn headers(own: &HeaderMap, signature: Vec<(&'static str, String)>, traceparent: Option<&str>) -> HeaderMap {
    let mut headers = own.clone();
    let traceparent = traceparent.map(|trace| ("traceparent", trace.to_owned()));
    for (name, value) in signature.into_iter().chain(traceparent) {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    headers
}
