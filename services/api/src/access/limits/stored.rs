//! Limits how many bytes of request bodies a client may store per day (UTC). The limit of the queue does not bound this: a job
//! that is cancelled leaves the queue, but its body stays in the database as long as all of its day.
//!
//! Each api counts in memory what it lets in. Every few seconds it writes its sums into rows of its own, where the other apis
//! read them. So no two accepts touch the same row. The count is not exact: an api that is killed forgets the bytes since its
//! last report, and several apis together may exceed the limit by what they let in between two reports.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Days, NaiveDate, NaiveTime, Utc};
use foreman_runtime::background::jittered;
use foreman_runtime::background_error;
use foreman_store::{ApiId, ClientId, Store, StoreError};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::access::shares::{Refusals, Resource};
use crate::refusal::Refusal;

const STORED: Resource = Resource {
    name: "stored",
    code: "daily_bytes_stored",
    error: "this client has stored as many bytes of requests today (UTC) as one client may; go on tomorrow, or have \
            FOREMAN_CLIENT_MAX_DAILY_BYTES raised",
};

/// The time between two reports. It is short enough that a client cannot store much more than its limit meanwhile, and long
/// enough that the statement costs nothing that matters.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// One statement reports at most this many clients.
const BATCH: usize = 1_000;

/// The bytes that each client has stored today.
#[derive(Clone)]
pub(crate) struct StoredBytes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    api: ApiId,
    max: u64,
    refusals: Refusals,
    today: Mutex<Today>,
}

#[derive(Debug, Default)]
struct Today {
    day: NaiveDate,
    clients: HashMap<ClientId, Sums>,
}

#[derive(Debug, Default)]
struct Sums {
    /// Stored through this api.
    own: u64,
    /// The part of `own` that the other apis know of.
    reported: u64,
    /// Stored through the other apis, by their last reports.
    others: u64,
}

/// The bytes of a job that is under way. Dropping it takes the bytes off the client's sum, unless the job was accepted.
#[derive(Debug)]
pub(super) struct BytesReservation {
    counts: Arc<Inner>,
    client: ClientId,
    day: NaiveDate,
    bytes: u64,
}

impl StoredBytes {
    pub(crate) fn new(store: Store, max: u64) -> Self {
        let (api, refusals) = (ApiId::generate(), Refusals::new(STORED));
        Self(Arc::new(Inner { store, api, max, refusals, today: Mutex::default() }))
    }

    /// Counts a job of this client, or refuses it when the client's day has no room for this many bytes.
    pub(super) async fn reserve(&self, client: ClientId, bytes: u64) -> Result<BytesReservation, Refusal> {
        if let Some(reserved) = self.try_reserve(client, bytes) {
            return reserved;
        }
        // This is the client's first job here today. Ask what other apis have let in before.
        let day = self.0.today().day;
        self.report(day, &[(client, 0)]).await?;
        self.try_reserve(client, bytes).unwrap_or_else(|| Err(self.0.refusals.whole_is_used()))
    }

    /// `None` if this api has no sums of this client for today yet.
    fn try_reserve(&self, client: ClientId, bytes: u64) -> Option<Result<BytesReservation, Refusal>> {
        let mut today = self.0.today();
        let day = today.day;
        let sums = today.clients.get_mut(&client)?;
        if sums.own.saturating_add(sums.others).saturating_add(bytes) > self.0.max {
            let refused = self.0.refusals.part_is_used();
            return Some(Err(refused.retry_after(until_the_end_of(day, self.0.store.clock().now()))));
        }
        sums.own += bytes;
        Some(Ok(BytesReservation { counts: Arc::clone(&self.0), client, day, bytes }))
    }

    /// Reports to the other apis what this one has let in, until `no_more` says that it lets in nothing more.
    pub(crate) async fn run(&self, no_more: &CancellationToken) {
        loop {
            tokio::select! {
                () = no_more.cancelled() => break,
                () = sleep(jittered(REPORT_EVERY)) => {}
            }
            self.report_all().await;
        }
        self.report_all().await;
    }

    async fn report_all(&self) {
        let (day, news) = {
            let today = self.0.today();
            let news = today.clients.iter().filter(|(_, sums)| sums.own != sums.reported);
            (today.day, news.map(|(client, sums)| (*client, sums.own)).collect::<Vec<_>>())
        };
        for some in news.chunks(BATCH) {
            if let Err(error) = self.report(day, some).await {
                background_error!(
                    "stored-bytes",
                    error,
                    "the other apis could not be told what clients have stored through this one"
                );
                return;
            }
        }
    }

    async fn report(&self, day: NaiveDate, own: &[(ClientId, u64)]) -> Result<(), StoreError> {
        let others = self.0.store.tell_stored_bytes(self.0.api, day, own).await?;
        let mut today = self.0.today();
        if today.day == day {
            for (client, reported) in own {
                let sums = today.clients.entry(*client).or_default();
                sums.reported = *reported;
                sums.others = others.get(client).copied().unwrap_or_default();
            }
        }
        Ok(())
    }
}

impl Inner {
    /// Today's sums. The first call of a day begins with empty ones.
    fn today(&self) -> MutexGuard<'_, Today> {
        let day = self.store.clock().now().date_naive();
        let mut today = self.today.lock().unwrap_or_else(PoisonError::into_inner);
        if today.day != day {
            *today = Today { day, clients: HashMap::new() };
        }
        today
    }
}

impl BytesReservation {
    /// Keeps the bytes in the client's sum: the job is stored.
    pub(super) fn keep(mut self) {
        self.bytes = 0;
    }
}

impl Drop for BytesReservation {
    fn drop(&mut self) {
        let mut today = self.counts.today();
        if today.day == self.day
            && let Some(sums) = today.clients.get_mut(&self.client)
        {
            sums.own = sums.own.saturating_sub(self.bytes);
        }
    }
}

fn until_the_end_of(day: NaiveDate, now: DateTime<Utc>) -> Duration {
    let midnight = (day + Days::new(1)).and_time(NaiveTime::MIN).and_utc();
    (midnight - now).to_std().unwrap_or_default()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A reservation for a job without bytes.
    pub(crate) fn no_bytes(store: Store) -> BytesReservation {
        let StoredBytes(counts) = StoredBytes::new(store, 0);
        BytesReservation { counts, client: ClientId::generate(), day: NaiveDate::default(), bytes: 0 }
    }
}
