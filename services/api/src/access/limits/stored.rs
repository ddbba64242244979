//! How many bytes of request bodies a client may store a day (UTC). What is queued does not bound that: a job that is
//! cancelled at once leaves the queue, and its body stays as long as its day.
//!
//! Each api counts in memory what it lets in and tells the others every few seconds, through rows of its own. So no accept
//! touches a row that another one does. The price: an api that is killed forgets what it has not told yet, and several
//! together may let in as much too much as comes between two tellings.

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

/// Between two tellings: a few seconds of one client's line, and a statement that nobody notices.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Clients told of in one statement.
const BATCH: usize = 1_000;

/// What every client has stored today.
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
    /// Through this api.
    own: u64,
    /// As much of `own` as the others know of.
    told: u64,
    /// Through the others, as they last told.
    others: u64,
}

/// Bytes of a job that is on its way; taken off again when dropped, unless the job was accepted.
#[derive(Debug)]
pub(super) struct Reserved {
    of: Arc<Inner>,
    client: ClientId,
    day: NaiveDate,
    bytes: u64,
}

impl StoredBytes {
    pub(crate) fn new(store: Store, max: u64) -> Self {
        let (api, refusals) = (ApiId::generate(), Refusals::new(STORED));
        Self(Arc::new(Inner { store, api, max, refusals, today: Mutex::default() }))
    }

    /// Counts a job of this client, if so many bytes fit into its day.
    pub(super) async fn reserve(&self, client: ClientId, bytes: u64) -> Result<Reserved, Refusal> {
        if let Some(reserved) = self.try_reserve(client, bytes) {
            return reserved;
        }
        // The first of its jobs here today: other apis may have let it in before.
        let day = self.0.today().day;
        self.tell(day, &[(client, 0)]).await?;
        self.try_reserve(client, bytes).unwrap_or_else(|| Err(self.0.refusals.whole_is_used()))
    }

    /// `None` for a client of which nothing is known today.
    fn try_reserve(&self, client: ClientId, bytes: u64) -> Option<Result<Reserved, Refusal>> {
        let mut today = self.0.today();
        let day = today.day;
        let sums = today.clients.get_mut(&client)?;
        if sums.own.saturating_add(sums.others).saturating_add(bytes) > self.0.max {
            let refused = self.0.refusals.part_is_used();
            return Some(Err(refused.retry_after(until_the_next(day, self.0.store.clock().now()))));
        }
        sums.own += bytes;
        Some(Ok(Reserved { of: Arc::clone(&self.0), client, day, bytes }))
    }

    /// Tells the other apis now and then what this one has let in, until nothing is let in any more.
    pub(crate) async fn run(&self, no_more: &CancellationToken) {
        loop {
            tokio::select! {
                () = no_more.cancelled() => break,
                () = sleep(jittered(TELL_EVERY)) => {}
            }
            self.tell_all().await;
        }
        self.tell_all().await;
    }

    async fn tell_all(&self) {
        let (day, news) = {
            let today = self.0.today();
            let news = today.clients.iter().filter(|(_, sums)| sums.own != sums.told);
            (today.day, news.map(|(client, sums)| (*client, sums.own)).collect::<Vec<_>>())
        };
        for some in news.chunks(BATCH) {
            if let Err(error) = self.tell(day, some).await {
                background_error!(
                    "stored-bytes",
                    error,
                    "other apis do not hear what clients have stored here"
                );
                return;
            }
        }
    }

    async fn tell(&self, day: NaiveDate, own: &[(ClientId, u64)]) -> Result<(), StoreError> {
        let others = self.0.store.tell_stored_bytes(self.0.api, day, own).await?;
        let mut today = self.0.today();
        if today.day == day {
            for (client, told) in own {
                let sums = today.clients.entry(*client).or_default();
                sums.told = *told;
                sums.others = others.get(client).copied().unwrap_or_default();
            }
        }
        Ok(())
    }
}

impl Inner {
    /// The sums of the day that it is now.
    fn today(&self) -> MutexGuard<'_, Today> {
        let day = self.store.clock().now().date_naive();
        let mut today = self.today.lock().unwrap_or_else(PoisonError::into_inner);
        if today.day != day {
            *today = Today { day, clients: HashMap::new() };
        }
        today
    }
}

impl Reserved {
    /// The job is stored.
    pub(super) fn keep(mut self) {
        self.bytes = 0;
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let mut today = self.of.today();
        if today.day == self.day
            && let Some(sums) = today.clients.get_mut(&self.client)
        {
            sums.own = sums.own.saturating_sub(self.bytes);
        }
    }
}

fn until_the_next(day: NaiveDate, now: DateTime<Utc>) -> Duration {
    let midnight = (day + Days::new(1)).and_time(NaiveTime::MIN).and_utc();
    (midnight - now).to_std().unwrap_or_default()
}
