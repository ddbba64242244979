//! How much a client may have waiting, and how much it may store a day (`stored`).
//!
//! Nobody keeps a counter in the database: it would be the one row that every accept fights for. Each api estimates
//! instead: what it last counted, and what it has let in since. Jobs that end only make the estimate too high, and near
//! the limit it is counted anew, at most once a second.
//!
//! One api alone never lets in more than the limit. With several, each learns what the others let in only when it counts,
//! and it counts anew once it has let in a tenth of the limit itself. So each further api can add a tenth at most.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use foreman_store::{ClientBacklog, ClientId, Store};
use tokio::time::{Instant, sleep};

use super::each_client::EachClient;
use crate::refusal::Refusal;

mod stored;

use stored::Reserved;
pub(crate) use stored::StoredBytes;

/// How long a count is good near the limit.
const GOOD_FOR: Duration = Duration::from_secs(1);

/// A flush that is on its way is usually over after this time.
const SETTLES_WITHIN: Duration = Duration::from_millis(10);

/// Keeps clients within their share of the queue.
pub(crate) struct QueueLimits {
    store: Store,
    max: ClientBacklog,
    stored: StoredBytes,
    /// A client that was forgotten is counted when it comes back.
    clients: EachClient<Tally>,
}

#[derive(Debug, Default)]
struct Tally {
    estimate: Mutex<Estimate>,
    /// Held by the one who counts.
    counting: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Estimate {
    /// What waits by now, at most.
    waiting: ClientBacklog,
    /// The part of it that is let in but not yet in the database.
    under_way: ClientBacklog,
    /// What was let in since the last count. Other apis do not know of it until they count.
    since_count: ClientBacklog,
    counted_at: Option<Instant>,
    /// Whether jobs were on their way during the last count. They may stand in `waiting` twice.
    is_doubtful: bool,
}

/// Room in the queue for one job; given back when dropped, unless the job was accepted.
#[derive(Debug)]
struct Place {
    tally: Arc<Tally>,
    bytes: u64,
    is_kept: bool,
}

/// A job that may be submitted: there is room for it in its client's queue and in its client's day.
#[derive(Debug)]
pub(crate) struct Admission {
    place: Place,
    stored: Reserved,
}

enum Verdict {
    In(Place),
    Full,
    /// Only a new count can tell.
    Count,
}

impl QueueLimits {
    pub(crate) fn new(store: Store, max: ClientBacklog, stored: StoredBytes) -> Self {
        Self { store, max, stored, clients: EachClient::default() }
    }

    /// Lets one more job of this client in, with so many bytes of body.
    pub(crate) async fn admit(&self, client: ClientId, bytes: usize) -> Result<Admission, Refusal> {
        let bytes = bytes as u64;
        let stored = self.stored.reserve(client, bytes).await?;
        Ok(Admission { place: self.place(client, bytes).await?, stored })
    }

    async fn place(&self, client: ClientId, bytes: u64) -> Result<Place, Refusal> {
        let tally = self.clients.of(client, Tally::default);
        loop {
            match self.judge(&tally, bytes) {
                Verdict::In(place) => return Ok(place),
                Verdict::Full => return Err(self.full()),
                Verdict::Count => {}
            }
            let _one_at_a_time = tally.counting.lock().await;
            // Somebody else has counted while we waited for our turn.
            if !matches!(self.judge(&tally, bytes), Verdict::Count) {
                continue;
            }
            if tally.estimate().is_doubtful {
                // What is on its way is written soon, and nothing is let in meanwhile.
                sleep(SETTLES_WITHIN).await;
            }
            let under_way = tally.estimate().under_way;
            let counted = self.store.client_backlog(client, self.max.jobs).await?;
            let mut estimate = tally.estimate();
            // Those that were on their way when the count began may be in it or not.
            estimate.waiting =
                ClientBacklog { jobs: counted.jobs + under_way.jobs, bytes: counted.bytes + under_way.bytes };
            estimate.is_doubtful = under_way.jobs > 0;
            estimate.since_count = ClientBacklog::default();
            estimate.counted_at = Some(Instant::now());
        }
    }

    fn judge(&self, tally: &Arc<Tally>, bytes: u64) -> Verdict {
        let mut estimate = tally.estimate();
        let jobs_after = estimate.waiting.jobs + 1;
        let bytes_after = estimate.waiting.bytes.saturating_add(bytes);
        let is_near = jobs_after > self.max.jobs / 10 * 9 || bytes_after > self.max.bytes / 10 * 9;
        let fits = jobs_after <= self.max.jobs && bytes_after <= self.max.bytes;
        let is_news_to_others = estimate.since_count.jobs >= (self.max.jobs / 10).max(1)
            || estimate.since_count.bytes >= (self.max.bytes / 10).max(1);
        match estimate.counted_at {
            None => Verdict::Count,
            Some(_) if is_news_to_others => Verdict::Count,
            Some(counted_at) if is_near && counted_at.elapsed() >= GOOD_FOR => Verdict::Count,
            Some(_) if fits => {
                estimate.add(bytes);
                Verdict::In(Place { tally: Arc::clone(tally), bytes, is_kept: false })
            }
            Some(_) if estimate.is_doubtful => Verdict::Count,
            Some(_) => Verdict::Full,
        }
    }

    fn full(&self) -> Refusal {
        let error = format!(
            "this client has its {} jobs or {} bytes queued; wait until some have run, or have \
             FOREMAN_CLIENT_MAX_QUEUED or FOREMAN_CLIENT_MAX_QUEUED_BYTES raised",
            self.max.jobs, self.max.bytes
        );
        Refusal::too_many("queue_full", error).retry_after(Duration::from_secs(2))
    }
}

impl Tally {
    fn estimate(&self) -> std::sync::MutexGuard<'_, Estimate> {
        self.estimate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Estimate {
    fn add(&mut self, bytes: u64) {
        for sum in [&mut self.waiting, &mut self.under_way, &mut self.since_count] {
            sum.jobs += 1;
            sum.bytes += bytes;
        }
    }
}

impl Admission {
    /// The job is in the queue: it is counted from now on.
    pub(crate) fn keep(mut self) {
        self.place.is_kept = true;
        self.stored.keep();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut estimate = self.tally.estimate();
        estimate.under_way.jobs -= 1;
        estimate.under_way.bytes -= self.bytes;
        if !self.is_kept {
            // A count in between may have left it out already.
            estimate.waiting.jobs = estimate.waiting.jobs.saturating_sub(1);
            estimate.waiting.bytes = estimate.waiting.bytes.saturating_sub(self.bytes);
        }
    }
}

#[cfg(test)]
mod tests;
