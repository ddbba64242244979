//! Asks hosts through their workers. All workers of a host ask the same Ollama, so any of them will do.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::http::StatusCode;
use bytes::{Bytes, BytesMut};
use foreman_live::DIRECT;
use futures_util::future::select_ok;
use reqwest::{Method, Response};
use tokio::time::timeout;

use crate::refusal::Refusal;
use crate::workers::Workers;

/// Ollama answers listings from memory and from small files. A host that takes longer than this is asked again by the next
/// caller.
const LISTING_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest answer that is kept: a listing of a few thousand models.
pub(super) const LARGEST_KEPT: usize = 16 << 20;

/// The addresses of the workers of each host, by the host's id.
pub(super) fn urls(workers: &Workers) -> BTreeMap<String, Vec<String>> {
    let mut hosts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for address in workers.addresses().borrow().iter() {
        hosts.entry(address.host.clone()).or_default().push(address.url.clone());
    }
    hosts
}

/// The first 200 that a worker of a host gives. A dead worker among them holds nothing up.
pub(super) async fn ask(workers: &Workers, urls: &[String], path: &str) -> Option<Bytes> {
    let questions = urls.iter().map(|url| {
        Box::pin(async move {
            let answer =
                workers.request(Method::GET, url, &format!("{DIRECT}{path}")).send().await.map_err(|_| ())?;
            if answer.status() != StatusCode::OK {
                return Err(());
            }
            whole(answer).await.ok_or(())
        })
    });
    let questions: Vec<_> = questions.collect();
    if questions.is_empty() {
        return None;
    }
    let (answer, _rest) = timeout(LISTING_TIMEOUT, select_ok(questions)).await.ok()?.ok()?;
    Some(answer)
}

/// Passes a request on to the first of these workers whose Ollama answers, with whatever status.
pub(super) async fn pass_on(
    workers: &Workers,
    urls: &[String],
    method: Method,
    path: &str,
    body: Bytes,
    limit: Duration,
) -> Result<Response, Refusal> {
    for url in urls {
        let request = workers.request(method.clone(), url, &format!("{DIRECT}{path}")).timeout(limit);
        match request.body(body.clone()).send().await {
            // A worker says this if its Ollama does not answer.
            Ok(answer) if answer.status() == StatusCode::BAD_GATEWAY => {}
            Ok(answer) => return Ok(answer),
            Err(error) => tracing::debug!(error = %error.without_url(), url, "a worker did not answer"),
        }
    }
    let error = "no Ollama that could answer this can be reached; try again in a moment, or start foreman-worker beside one";
    Err(Refusal::unavailable("no_host", error).retry_after(Duration::from_secs(5)))
}

/// The whole body, if it is not too large to keep.
pub(super) async fn whole(mut answer: Response) -> Option<Bytes> {
    let mut body = BytesMut::new();
    while let Some(piece) = answer.chunk().await.ok()? {
        if body.len() + piece.len() > LARGEST_KEPT {
            return None;
        }
        body.extend_from_slice(&piece);
    }
    Some(body.freeze())
}
