//! What an api remembers of Ollama's answers, and what it lets through to them. Another api has its own.

use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use axum::http::HeaderValue;
use bytes::Bytes;
use moka::future::Cache;

use super::entries::{self, Entries};
use super::kept::Kept;
use crate::access::shares::{Bounds, Resource, Shares};

/// A tool asks for the same model many times in a row when it starts.
const KEPT_FOR: Duration = Duration::from_secs(10);

/// Bytes of all kept answers together. One with a large vocabulary (`verbose`) has about 10 MiB.
const KEPT_BYTES: u64 = 64 << 20;

const UNDER_WAY: Resource = Resource {
    name: "embeddings",
    code: "too_many_embeddings",
    error: "this client has as many embeddings under way as one client may have; wait for answers, then go on",
};

/// Ollama itself refuses more than 512 requests at a time, and jobs need room there too.
const BOUNDS: Bounds = Bounds { whole: 256, part: 64, reserve: 0, small: 0 };

/// A path and the body of a request to it.
pub(super) type Question = (String, Bytes);

/// The content type and the body of a 200.
pub(super) type Shown = (Option<HeaderValue>, Bytes);

pub(crate) struct Direct {
    pub(super) tags: Kept<Entries>,
    pub(super) ps: Kept<Entries>,
    pub(super) openai_models: Kept<Entries>,
    pub(super) version: Kept<Bytes>,
    /// What Ollama shows of models.
    pub(super) shown: Cache<Question, Shown>,
    /// Embeddings under way.
    pub(super) embeddings: Shares,
    /// Which of several hosts gets the next embedding.
    pub(super) turn: AtomicUsize,
}

impl Direct {
    pub(crate) fn new() -> Self {
        Self {
            tags: Kept::new("/api/tags", entries::models),
            ps: Kept::new("/api/ps", entries::models),
            openai_models: Kept::new("/v1/models", entries::openai_models),
            version: Kept::new("/api/version", entries::version),
            shown: cache(),
            embeddings: Shares::new(UNDER_WAY, BOUNDS),
            turn: AtomicUsize::default(),
        }
    }
}

fn cache() -> Cache<Question, Shown> {
    let bytes = |(path, asked): &Question, (_, shown): &Shown| {
        u32::try_from(path.len() + asked.len() + shown.len()).unwrap_or(u32::MAX)
    };
    Cache::builder().weigher(bytes).max_capacity(KEPT_BYTES).time_to_live(KEPT_FOR).build()
}
