//! Load keys: of a job, its model and those options that decide how the model is loaded; of a runner, what is loaded.

use std::sync::Arc;

use foreman_ollama::LoadKey;

/// Shared, because it is copied often.
pub(crate) type Key = Arc<LoadKey>;

/// Where a job runs, and so what it needs of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RunsOn {
    /// The GPU, with its model loaded.
    Gpu,
    /// Ollama's cloud. The job needs a slot, but no loaded model.
    Cloud,
}

/// The key with this text, if it is one.
pub(crate) fn read(load_key: &str) -> Option<Key> {
    load_key.parse().ok().map(Arc::new)
}
