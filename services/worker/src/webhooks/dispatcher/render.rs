//! The body of a webhook. It is made for each attempt from the stored event, so that a later attempt says the same as the
//! first.

use foreman_store::{ArtifactView, Delivery};
use foreman_webhook::event::artifact_url;
use foreman_webhook::{Artifact, ArtifactContent, Event};

/// The bytes to sign and to send.
pub(super) fn body(delivery: &Delivery, public_url: Option<&str>) -> Vec<u8> {
    let (event, job_id) = (&delivery.event, delivery.job.to_string());
    let url = |made: &ArtifactView| artifact_url(public_url, &job_id, &made.name);
    let artifacts: Vec<_> = event
        .artifacts
        .iter()
        .map(|made| Artifact {
            name: &made.name,
            content_type: &made.content_type,
            size: made.size,
            sha256: &made.sha256,
            content: ArtifactContent::choose(made.data.as_deref(), || url(made)),
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
        artifacts: &artifacts,
        error: event.error.as_deref(),
        metadata: delivery.metadata.as_deref(),
    }
    .to_json()
}
