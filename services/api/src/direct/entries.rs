//! Reads the listings of one Ollama. An entry stays as its Ollama wrote it.

use bytes::Bytes;
use foreman_ollama::ModelName;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

/// A listing of one host.
pub(super) type Entries = Vec<Entry>;

pub(super) struct Entry {
    name: String,
    /// What the model can do. An Ollama before v0.32 lists that of no model.
    pub(super) capabilities: Option<Vec<String>>,
    pub(super) json: Box<RawValue>,
}

impl Entry {
    /// The name as Ollama shows it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn is(&self, model: &ModelName) -> bool {
        ModelName::parse(&self.name).is_ok_and(|name| name == *model)
    }
}

/// The form of `/api/tags` and `/api/ps`.
#[derive(Serialize, Deserialize)]
pub(super) struct Models<T> {
    pub(super) models: Vec<T>,
}

/// The form of `/v1/models`.
#[derive(Serialize, Deserialize)]
pub(super) struct OpenAiModels<T> {
    pub(super) object: String,
    #[serde(bound(deserialize = "T: Deserialize<'de>"), deserialize_with = "null_is_empty")]
    pub(super) data: Vec<T>,
}

/// Ollama without models answers `"data": null`.
fn null_is_empty<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[derive(Deserialize)]
struct Named {
    #[serde(alias = "id")]
    name: String,
    #[serde(default)]
    capabilities: Value,
}

#[derive(Deserialize)]
struct Version {
    #[expect(dead_code, reason = "an answer without it is not Ollama's")]
    version: String,
}

pub(super) fn models(answer: &Bytes) -> Option<Entries> {
    entries(serde_json::from_slice::<Models<Box<RawValue>>>(answer).ok()?.models)
}

pub(super) fn openai_models(answer: &Bytes) -> Option<Entries> {
    entries(serde_json::from_slice::<OpenAiModels<Box<RawValue>>>(answer).ok()?.data)
}

pub(super) fn version(answer: &Bytes) -> Option<Bytes> {
    serde_json::from_slice::<Version>(answer).ok().map(|_| answer.clone())
}

fn entries(listed: Vec<Box<RawValue>>) -> Option<Entries> {
    let entry = |json: Box<RawValue>| {
        let Named { name, capabilities } = serde_json::from_str(json.get()).ok()?;
        // A form that nobody knows must not cost the listing.
        let capabilities = serde_json::from_value(capabilities).unwrap_or_default();
        Some(Entry { name, capabilities, json })
    };
    listed.into_iter().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_something_else_is_none() {
        for answer in [r#"{"error":"x"}"#, r#"{"models":[{"size":1}]}"#, "Ollama is running", ""] {
            let answer = Bytes::from_static(answer.as_bytes());
            assert!(
                models(&answer).is_none() && openai_models(&answer).is_none() && version(&answer).is_none()
            );
        }
        let odd = Bytes::from_static(br#"{"models":[{"name":"x","capabilities":5}]}"#);
        assert!(models(&odd).is_some_and(|entries| entries[0].capabilities.is_none()));
        let empty = Bytes::from_static(br#"{"object":"list","data":null}"#);
        assert!(openai_models(&empty).is_some_and(|entries| entries.is_empty()));
    }
}
