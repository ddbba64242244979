//! The key of a load: what of a job decides which model is loaded, and how.

use std::sync::Arc;

use foreman_ollama::LoadKey;

/// Shared by all that speak of it.
pub(crate) type Key = Arc<LoadKey>;
