//! Limits how many jobs and bytes a client may have in the queue, and how many bytes it may store per day (`stored`).
//!
//! The database has no counter for this, because every accept would wait for the same row. Instead each api keeps an estimate
//! per client: the last count plus what this api has let in since. A job that ends makes the estimate too high, never too low.
//! Near the limit the api counts again, at most once per second.
//!
//! A single api never lets in more than the limit. An api learns only from a count what other apis have let in, and it counts
//! again when it has let in a tenth of the limit itself. So each further api can exceed the limit by at most a tenth.
//!
//! A count also tells which ceilings the client has of its own (`foreman client set`), so each count is good for a while only.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use foreman_store::{ClientBacklog, ClientId, Store};
use tokio::time::{Instant, sleep};

use super::each_client::EachClient;
use crate::refusal::Refusal;

mod stored;

use stored::BytesReservation;
pub(crate) use stored::StoredBytes;

/// Near the limit, a count is used for this long.
const GOOD_FOR: Duration = Duration::from_secs(1);

/// Anywhere else, a count is used for this long: an operator who changes a client's ceilings sees the effect by then. Counting
/// 100,000 jobs takes some 30 ms, so this costs a busy client next to nothing.
const TERMS_GOOD_FOR: Duration = Duration::from_secs(10);

/// Most flushes are over within this time.
const FLUSHED_WITHIN: Duration = Duration::from_millis(10);

/// Keeps each client within its limits.
pub(crate) struct QueueLimits {
    store: Store,
    /// For clients without ceilings of their own.
    max: ClientBacklog,
    stored: StoredBytes,
    /// When a forgotten client comes back, its queue is counted.
    clients: EachClient<ClientQueue>,
}

/// Everything that this api knows of one client's queue.
#[derive(Debug, Default)]
struct ClientQueue {
    estimate: Mutex<Estimate>,
    /// Held by the request that counts.
    counting: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Estimate {
    /// The client has at most this much in its queue.
    waiting: ClientBacklog,
    /// The part of `waiting` that is let in but not yet in the database.
    under_way: ClientBacklog,
    /// Let in by this api since its last count. Other apis learn of it when they count.
    since_count: ClientBacklog,
    counted_at: Option<Instant>,
    /// The client's own ceilings, as the last count found them.
    own_max_jobs: Option<u64>,
    own_max_bytes: Option<u64>,
    /// Whether jobs were under way during the last count. `waiting` may include these jobs twice.
    is_doubtful: bool,
}

/// Room for one job in its client's queue. Dropping it gives the room back, unless the job was accepted.
#[derive(Debug)]
struct QueueReservation {
    queue: Arc<ClientQueue>,
    bytes: u64,
    is_kept: bool,
}

/// Permission to submit one job: the client's queue and the client's day have room for it.
#[derive(Debug)]
pub(crate) struct Admission {
    queue: QueueReservation,
    stored: BytesReservation,
}

/// Whether a client's queue has room for one more job.
enum QueueCheck {
    Reserved(QueueReservation),
    Full,
    /// The estimate cannot tell; count the queue first.
    CountFirst,
}

impl QueueLimits {
    pub(crate) fn new(store: Store, max: ClientBacklog, stored: StoredBytes) -> Self {
        Self { store, max, stored, clients: EachClient::default() }
    }

    /// Reserves room for one more job of this client. `bytes` is the size of the job's body.
    pub(crate) async fn admit(&self, client: ClientId, bytes: usize) -> Result<Admission, Refusal> {
        let bytes = bytes as u64;
        let stored = self.stored.reserve(client, bytes).await?;
        Ok(Admission { queue: self.reserve(client, bytes).await?, stored })
    }

    async fn reserve(&self, client: ClientId, bytes: u64) -> Result<QueueReservation, Refusal> {
        let queue = self.clients.of(client, ClientQueue::default);
        loop {
            match self.check(&queue, bytes) {
                QueueCheck::Reserved(reservation) => return Ok(reservation),
                QueueCheck::Full => return Err(full(self.max_of(&queue.estimate()), bytes)),
                QueueCheck::CountFirst => {}
            }
            let _one_at_a_time = queue.counting.lock().await;
            // Perhaps another request has counted while this one waited for the lock.
            if !matches!(self.check(&queue, bytes), QueueCheck::CountFirst) {
                continue;
            }
            if queue.estimate().is_doubtful {
                // The jobs under way are written soon, and the lock lets no other request count meanwhile.
                sleep(FLUSHED_WITHIN).await;
            }
            let under_way = queue.estimate().under_way;
            let counted = self.store.client_backlog(client, self.max.jobs).await?;
            let mut estimate = queue.estimate();
            // Nobody knows whether the count includes the jobs that were under way when it began.
            estimate.waiting = ClientBacklog {
                jobs: counted.waiting.jobs + under_way.jobs,
                bytes: counted.waiting.bytes + under_way.bytes,
            };
            (estimate.own_max_jobs, estimate.own_max_bytes) = (counted.max_jobs, counted.max_bytes);
            estimate.is_doubtful = under_way.jobs > 0;
            estimate.since_count = ClientBacklog::default();
            estimate.counted_at = Some(Instant::now());
        }
    }

    fn check(&self, queue: &Arc<ClientQueue>, bytes: u64) -> QueueCheck {
        let mut estimate = queue.estimate();
        let jobs_after = estimate.waiting.jobs + 1;
        let bytes_after = estimate.waiting.bytes.saturating_add(bytes);
        let max = self.max_of(&estimate);
        let is_near = jobs_after > max.jobs / 10 * 9 || bytes_after > max.bytes / 10 * 9;
        let fits = jobs_after <= max.jobs && bytes_after <= max.bytes;
        let is_too_much_unseen = estimate.since_count.jobs >= (max.jobs / 10).max(1)
            || estimate.since_count.bytes >= (max.bytes / 10).max(1);
        match estimate.counted_at {
            None => QueueCheck::CountFirst,
            Some(_) if is_too_much_unseen => QueueCheck::CountFirst,
            Some(counted_at) if counted_at.elapsed() >= if is_near { GOOD_FOR } else { TERMS_GOOD_FOR } => {
                QueueCheck::CountFirst
            }
            Some(_) if fits => {
                estimate.add(bytes);
                QueueCheck::Reserved(QueueReservation { queue: Arc::clone(queue), bytes, is_kept: false })
            }
            Some(_) if estimate.is_doubtful => QueueCheck::CountFirst,
            Some(_) => QueueCheck::Full,
        }
    }

    /// What this client may have in its queue.
    fn max_of(&self, estimate: &Estimate) -> ClientBacklog {
        ClientBacklog {
            jobs: estimate.own_max_jobs.unwrap_or(self.max.jobs),
            bytes: estimate.own_max_bytes.unwrap_or(self.max.bytes),
        }
    }
}

/// Refuses a job of this many bytes.
fn full(max: ClientBacklog, bytes: u64) -> Refusal {
    let ClientBacklog { jobs, bytes: max_bytes } = max;
    let advice = if jobs == 0 || bytes > max_bytes {
        format!("this client may have {jobs} jobs and {max_bytes} bytes queued, too few for this job alone;")
    } else {
        format!("this client has its {jobs} jobs or {max_bytes} bytes queued; wait until some have run, or")
    };
    let error = format!(
        "{advice} have FOREMAN_CLIENT_MAX_QUEUED or FOREMAN_CLIENT_MAX_QUEUED_BYTES raised, or the client's own ceilings with \
         `foreman client set`"
    );
    Refusal::too_many("queue_full", error).retry_after(Duration::from_secs(2))
}

impl ClientQueue {
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
    /// Keeps both reservations: the job is in the queue.
    pub(crate) fn keep(mut self) {
        self.queue.is_kept = true;
        self.stored.keep();
    }
}

impl Drop for QueueReservation {
    fn drop(&mut self) {
        let mut estimate = self.queue.estimate();
        estimate.under_way.jobs -= 1;
        estimate.under_way.bytes -= self.bytes;
        if !self.is_kept {
            // A count in between may have left this job out already.
            estimate.waiting.jobs = estimate.waiting.jobs.saturating_sub(1);
            estimate.waiting.bytes = estimate.waiting.bytes.saturating_sub(self.bytes);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
