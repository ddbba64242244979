//! Ollama's listings, as far as Foreman needs them. A field is optional if a supported version does not send it.

use chrono::{DateTime, Utc};
use serde::Deserialize;

use crate::model::ModelName;

/// A model of `GET /api/tags`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct InstalledModel {
    /// The name as Ollama shows it, with its tag. People and metrics see this name.
    pub name: String,
    #[serde(default)]
    pub digest: String,
    /// Bytes on disk.
    #[serde(default)]
    pub size: u64,
    #[serde(default)]
    pub details: ModelDetails,
    /// The model's abilities. Ollama sends them since v0.32.
    #[serde(default)]
    pub capabilities: Option<Vec<String>>,
}

impl InstalledModel {
    /// Whether the model can embed and nothing else, so that Ollama would refuse chat and generate.
    pub fn embeds_only(&self) -> bool {
        let can = |what| self.capabilities.as_ref().is_some_and(|all| all.iter().any(|one| one == what));
        can("embedding") && !can("completion")
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ModelDetails {
    pub family: String,
    pub parameter_size: String,
    pub quantization_level: String,
    /// The model's own limit of `num_ctx`. Ollama sends it since v0.32.
    pub context_length: Option<u64>,
}

/// A model of `GET /api/ps`: loaded, though perhaps under another name of the same weights.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct RunningModel {
    pub name: String,
    #[serde(default)]
    pub digest: String,
    /// When Ollama will unload the model, unless another request comes.
    #[serde(default)]
    pub expires_at: Option<DateTime<Utc>>,
    /// Bytes on the GPU.
    #[serde(default)]
    pub size_vram: u64,
    #[serde(default)]
    pub context_length: Option<u64>,
}

impl RunningModel {
    /// Whether it is listed under this name.
    pub fn is(&self, model: &ModelName) -> bool {
        ModelName::parse(&self.name).is_ok_and(|name| name == *model)
    }

    /// The length of its context.
    pub fn context(&self) -> Option<i64> {
        self.context_length.and_then(|length| i64::try_from(length).ok())
    }
}

/// The envelope of both listings.
#[derive(Debug, Deserialize)]
pub(crate) struct Listing<T> {
    pub(crate) models: Vec<T>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Version {
    pub(crate) version: String,
}
