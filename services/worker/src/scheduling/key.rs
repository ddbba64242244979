//! The key of a load: what of a job decides which model is loaded, and how.

use std::sync::Arc;

use foreman_ollama::LoadKey;

/// Shared by all that speak of it.
pub(crate) type Key = Arc<LoadKey>;

/// What a job needs of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RunsOn {
    /// The GPU, with its model loaded.
    Gpu,
    /// Only a slot: Ollama hands the request on to its cloud, whatever is loaded.
    Cloud,
}
