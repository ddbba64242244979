//! The listings of all hosts as one: each entry as its Ollama wrote it, and each name once.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use serde::Serialize;
use serde_json::value::RawValue;

use super::entries::{Entries, Models, OpenAiModels};
use crate::access::auth::Caller;
use crate::app::Shared;
use crate::http::outgoing;
use crate::refusal::Refusal;

pub(super) async fn tags(caller: Caller, State(app): State<Shared>) -> Result<Response, Refusal> {
    let hosts = app.direct.tags.latest(&app.workers).await;
    answer(&app, caller, json(&Models { models: merged(&hosts)? })).map(natively)
}

pub(super) async fn ps(caller: Caller, State(app): State<Shared>) -> Result<Response, Refusal> {
    let hosts = app.direct.ps.latest(&app.workers).await;
    answer(&app, caller, json(&Models { models: merged(&hosts)? })).map(natively)
}

pub(super) async fn openai(caller: Caller, State(app): State<Shared>) -> Result<Response, Refusal> {
    let hosts = app.direct.openai_models.latest(&app.workers).await;
    let mut listing = json(&OpenAiModels { object: "list".to_owned(), data: merged(&hosts)? });
    // As Ollama ends it.
    listing.push(b'\n');
    answer(&app, caller, listing)
}

/// The version of an Ollama, not of Foreman: clients compare it. It needs no key, because some ask for it without theirs.
pub(super) async fn own_version(State(app): State<Shared>) -> Result<Response, Refusal> {
    let hosts = app.direct.version.latest(&app.workers).await;
    let version = hosts.into_values().next().ok_or_else(none_has_answered)?;
    Ok(natively(outgoing::small_json(StatusCode::OK, version.to_vec())))
}

/// The entries of all hosts. Where several hosts have a name, the first host's entry stands for all.
fn merged(hosts: &BTreeMap<String, Arc<Entries>>) -> Result<Vec<&RawValue>, Refusal> {
    if hosts.is_empty() {
        return Err(none_has_answered());
    }
    let mut seen = HashSet::new();
    let entries = hosts.values().flat_map(|entries| entries.iter());
    Ok(entries.filter(|entry| seen.insert(entry.name())).map(|entry| &*entry.json).collect())
}

fn json(listing: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(listing).expect("entries that were JSON always serialise")
}

fn answer(app: &Shared, caller: Caller, listing: Vec<u8>) -> Result<Response, Refusal> {
    outgoing::json(app, caller.client, StatusCode::OK, listing)
}

/// On its native routes Ollama names the charset.
fn natively(mut response: Response) -> Response {
    let json = HeaderValue::from_static("application/json; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

fn none_has_answered() -> Refusal {
    let error = "no Ollama has answered yet; start foreman-worker beside one, or try again in a moment";
    Refusal::unavailable("no_host", error).retry_after(Duration::from_secs(5))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::direct::entries::models;

    fn read(listing: &'static str) -> Arc<Entries> {
        Arc::new(models(&Bytes::from_static(listing.as_bytes())).unwrap())
    }

    #[test]
    fn each_name_comes_once_and_as_its_ollama_wrote_it() {
        let hosts = BTreeMap::from([
            ("b".to_owned(), read(r#"{"models":[{"name":"x:latest","size":2},{"name":"z:latest"}]}"#)),
            (
                "a".to_owned(),
                read(r#"{"models":[{"name":"x:latest", "size":1.0},{"size":3,"name":"y:latest"}]}"#),
            ),
        ]);
        let all: Vec<&str> = merged(&hosts).unwrap().iter().map(|entry| entry.get()).collect();
        let expected = [
            r#"{"name":"x:latest", "size":1.0}"#,
            r#"{"size":3,"name":"y:latest"}"#,
            r#"{"name":"z:latest"}"#,
        ];
        assert_eq!(all, expected);
        let none = BTreeMap::from([("a".to_owned(), read(r#"{"models":[]}"#))]);
        assert!(merged(&none).unwrap().is_empty());
    }
}
