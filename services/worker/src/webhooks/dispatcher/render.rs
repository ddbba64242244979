//! The body of a webhook. It is made for each attempt from the stored event, so that a later attempt says the same as the
//! first.

use foreman_store::{ArtifactView, Delivery};
use foreman_webhook::{
    Artifact, ArtifactContent, Event,
    event::{COMPLETION, artifact_url},
};
use serde_json::value::RawValue;

/// The bytes to sign and to send.
pub(super) fn body(delivery: &Delivery, inline_limit: u64, public_url: Option<&str>) -> Vec<u8> {
    let job_id = delivery.job.to_string();
    let event = &delivery.event;
    let digests: Vec<String> = event.artifacts.iter().map(|made| hex::encode(&made.sha256)).collect();
    let artifacts: Vec<Artifact<'_>> = event
        .artifacts
        .iter()
        .zip(&digests)
        .map(|(made, sha256)| Artifact {
            name: &made.name,
            content_type: &made.content_type,
            size: made.size,
            sha256,
            content: content(made, inline_limit, || artifact_url(public_url, &job_id, &made.name)),
        })
        .collect();
    Event {
        job_id: &job_id,
        seq: event.seq.into(),
        state: event.state.as_str(),
        previous_state: event.previous_state.map(|state| state.as_str()),
        timestamp: event.at,
        model: &delivery.model,
        attempt: event.attempt.into(),
        result: event.artifacts.iter().find(|made| made.name == COMPLETION).and_then(result),
        artifacts: &artifacts,
        error: event.error.as_deref(),
        metadata: delivery.metadata.as_deref().and_then(raw),
    }
    .to_json()
}

fn content(made: &ArtifactView, inline_limit: u64, url: impl FnOnce() -> String) -> ArtifactContent<'_> {
    match &made.data {
        Some(data) => ArtifactContent::choose(data, inline_limit, url),
        None => ArtifactContent::Url(url()),
    }
}

/// What Ollama would have answered unstreamed, in its own bytes.
fn result(completion: &ArtifactView) -> Option<&RawValue> {
    raw(std::str::from_utf8(completion.data.as_deref()?).ok()?)
}

fn raw(json: &str) -> Option<&RawValue> {
    serde_json::from_str(json).ok()
}
