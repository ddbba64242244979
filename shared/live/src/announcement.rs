//! The paths of a worker's stream address, and the announcements that an api hears there.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `GET /announcements?api=<id of the api>` never ends. Each line is an [`Announcement`], or is empty.
pub const ANNOUNCEMENTS: &str = "/announcements";

/// `GET /answers/<job>?attempt=<number>&from=<bytes>` answers with frames.
pub const ANSWERS: &str = "/answers";

/// The routes below this path lead to the worker's Ollama.
pub const DIRECT: &str = "/ollama";

/// A worker sends an empty line when it has had nothing to say for this long.
pub const HEARTBEAT: Duration = Duration::from_secs(5);

/// An api that hears nothing for this long gives the connection up. It is three heartbeats, so that one late heartbeat cuts
/// nothing.
pub const SILENCE: Duration = Duration::from_secs(15);

/// An attempt of a job runs on this worker now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// The job's id, as clients see it.
    pub job: String,
    /// Counts the job's attempts from 1.
    pub attempt: i32,
}
