//! What every request works with.

use std::sync::Arc;

use chrono::TimeDelta;
use foreman_store::Store;
use foreman_webhook::SubmissionCheck;
use tokio::sync::Semaphore;

use crate::access::auth::Auth;
use crate::access::limits::QueueLimits;
use crate::access::reads::Reads;
use crate::access::redeliveries::Redeliveries;
use crate::access::shares::Shares;
use crate::intake::inventory::Inventory;
use crate::intake::submit::Submitter;
use crate::queue::Queue;
use crate::watch::Watch;

/// Shared by all requests of this process.
pub(crate) struct App {
    pub(crate) store: Store,
    pub(crate) auth: Auth,
    pub(crate) inventory: Inventory,
    pub(crate) limits: QueueLimits,
    pub(crate) submitter: Submitter,
    pub(crate) queue: Queue,
    pub(crate) watch: Watch,
    pub(crate) receivers: SubmissionCheck,
    /// Request bodies, from their first byte to their commit.
    pub(crate) incoming: Shares,
    /// Turns at reading large bodies as JSON.
    pub(crate) large: Semaphore,
    /// Places of batches before the submitter.
    pub(crate) in_line: Arc<Semaphore>,
    /// Answers and pieces of artifacts, until the client has taken their last byte.
    pub(crate) outgoing: Shares,
    /// The same for event streams, which no slow reader of answers may keep out.
    pub(crate) events: Shares,
    pub(crate) reads: Reads,
    pub(crate) redeliveries: Redeliveries,
    pub(crate) max_body: usize,
    pub(crate) job_ttl: TimeDelta,
    /// Bytes up to which an artifact stands in an answer.
    pub(crate) inline_limit: u64,
    pub(crate) public_url: Option<String>,
}

/// The state of the routes.
pub(crate) type Shared = Arc<App>;

impl App {
    /// A path of ours as clients should call it.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.public_url.as_deref().unwrap_or_default())
    }
}
