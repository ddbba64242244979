//! The state that all requests of this process share.

use std::sync::Arc;

use chrono::TimeDelta;
use foreman_store::{ApiId, JobView, Seal, Store};
use foreman_webhook::SubmissionCheck;
use tokio::sync::Semaphore;

use crate::access::auth::Auth;
use crate::access::limits::QueueLimits;
use crate::access::reads::Reads;
use crate::access::sends::Sends;
use crate::access::shares::Shares;
use crate::direct::known::Direct;
use crate::forecasts::{Forecasts, Prospect, QueuedJob};
use crate::intake::inventory::Inventory;
use crate::intake::submit::Submitter;
use crate::live::Signs;
use crate::live::announcements::Attempts;
use crate::live::hang_ups::HangUps;
use crate::queue::QueueReader;
use crate::watch::Watch;
use crate::workers::Workers;

pub(crate) struct App {
    pub(crate) store: Store,
    pub(crate) auth: Auth,
    pub(crate) inventory: Inventory,
    pub(crate) limits: QueueLimits,
    pub(crate) submitter: Submitter,
    /// This process, as the jobs of its sync calls name it.
    pub(crate) api: ApiId,
    pub(crate) workers: Workers,
    pub(crate) direct: Direct,
    pub(crate) attempts: Attempts,
    pub(crate) hang_ups: HangUps,
    /// When a call that waits shows signs of life: one that streams, and any other.
    pub(crate) signs_of_streams: Signs,
    pub(crate) signs_of_others: Signs,
    pub(crate) queue: QueueReader,
    pub(crate) forecasts: Forecasts,
    pub(crate) watch: Watch,
    pub(crate) receivers: SubmissionCheck,
    /// Memory of request bodies, from their first byte to the commit of their jobs.
    pub(crate) incoming: Shares,
    /// Permits to parse a large body.
    pub(crate) large_parses: Semaphore,
    /// Permits to offer a line of a batch to the submitter.
    pub(crate) batch_lines: Arc<Semaphore>,
    /// Memory of answers and of pieces of artifacts, until the client has taken their last byte.
    pub(crate) outgoing: Shares,
    /// The same for event streams. It is apart, so that slow readers of answers do not keep event streams out.
    pub(crate) events: Shares,
    pub(crate) reads: Reads,
    pub(crate) redeliveries: Sends,
    pub(crate) examples: Sends,
    /// Seals the secrets of endpoints. `None` without `FOREMAN_SECRET_KEY`.
    pub(crate) seal: Option<Seal>,
    pub(crate) max_body: usize,
    pub(crate) job_ttl: TimeDelta,
    /// An artifact of up to this many bytes stands in the answer itself.
    pub(crate) inline_limit: u64,
    pub(crate) public_url: Option<String>,
}

pub(crate) type Shared = Arc<App>;

impl App {
    /// The URL of one of our paths, as clients should call it.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.public_url.as_deref().unwrap_or_default())
    }

    /// What is known of this job, if it waits.
    pub(crate) async fn prospect(&self, job: &JobView) -> Prospect {
        match QueuedJob::of(job) {
            Some(waiting) => self.prospect_of(&waiting).await,
            None => Prospect::default(),
        }
    }

    /// What is known of this job, which waits.
    pub(crate) async fn prospect_of(&self, job: &QueuedJob) -> Prospect {
        let reading = self.forecasts.read().await;
        reading.prospect(job, &self.inventory, self.store.clock().now())
    }

    /// What is known of each of these jobs.
    pub(crate) async fn prospects(&self, jobs: &[JobView]) -> Vec<Prospect> {
        let waiting: Vec<Option<QueuedJob>> = jobs.iter().map(QueuedJob::of).collect();
        if waiting.iter().all(Option::is_none) {
            return vec![Prospect::default(); jobs.len()];
        }
        let (reading, now) = (self.forecasts.read().await, self.store.clock().now());
        let prospect = |job: &Option<QueuedJob>| {
            job.as_ref().map(|job| reading.prospect(job, &self.inventory, now)).unwrap_or_default()
        };
        waiting.iter().map(prospect).collect()
    }
}
