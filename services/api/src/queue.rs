//! Reads the whole queue once for all requests that ask for it. A reading takes longer the longer the queue is. It must not
//! cost the database more when more clients ask.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use foreman_store::{ClientId, HostPlan, HostTurns, QueueClient, QueueShare, Store, StoreError};
use tokio::sync::Mutex;
use tokio::time::Instant;

/// A reading is used for at least this long. Nobody needs a newer one.
const MIN_USE: Duration = Duration::from_secs(1);

/// After a reading we rest for this many times as long as it took. So readings use at most a twentieth of one Postgres
/// process. With a million jobs waiting, a reading takes a second and is used for twenty.
const REST: u32 = 19;

/// The queue as it was at one moment, and the hosts as they were at another one.
#[derive(Debug, Clone)]
pub(crate) struct QueueReading {
    /// When the shares were read.
    pub(crate) as_of: DateTime<Utc>,
    pub(crate) shares: Arc<Vec<QueueShare>>,
    pub(crate) hosts: Arc<Hosts>,
}

/// What the hosts tell.
#[derive(Debug)]
pub(crate) struct Hosts {
    /// How each host goes about its work, with the host's id.
    pub(crate) plans: Vec<(String, HostPlan)>,
    /// The clients that the shares and the plans tell of, by name.
    pub(crate) clients: Vec<QueueClient>,
}

/// Reads the queue when somebody asks and the last reading is too old. The hosts are read apart, because that takes hardly
/// any time, however long the queue is.
pub(crate) struct QueueReader {
    store: Store,
    shares: Kept<Vec<QueueShare>>,
    hosts: Kept<Hosts>,
}

/// The last reading of something. Locked during a reading, so that all requests that wait for the lock get this reading.
struct Kept<T>(Mutex<Option<Reading<T>>>);

struct Reading<T> {
    as_of: DateTime<Utc>,
    value: Arc<T>,
    use_until: Instant,
}

impl QueueReader {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, shares: Kept(Mutex::default()), hosts: Kept(Mutex::default()) }
    }

    pub(crate) async fn read(&self) -> Result<QueueReading, StoreError> {
        let now = || self.store.clock().now();
        let (as_of, shares) = self.shares.read(now, self.store.queue()).await?;
        let read_hosts = async {
            let plans = self.store.host_plans().await?;
            let clients = self.store.queue_clients(&clients(&shares, &plans)).await?;
            Ok(Hosts { plans, clients })
        };
        let (_, hosts) = self.hosts.read(now, read_hosts).await?;
        Ok(QueueReading { as_of, shares, hosts })
    }
}

impl<T> Kept<T> {
    /// The value, and when it was read.
    async fn read(
        &self,
        now: impl FnOnce() -> DateTime<Utc>,
        read: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<(DateTime<Utc>, Arc<T>), StoreError> {
        let mut last = self.0.lock().await;
        if let Some(reading) = last.as_ref().filter(|reading| Instant::now() < reading.use_until) {
            return Ok((reading.as_of, Arc::clone(&reading.value)));
        }
        let (began, as_of) = (Instant::now(), now());
        let value = Arc::new(read.await?);
        let use_until = Instant::now() + MIN_USE.max(began.elapsed() * REST);
        *last = Some(Reading { as_of, value: Arc::clone(&value), use_until });
        Ok((as_of, value))
    }
}

/// The clients that these tell of.
fn clients(shares: &[QueueShare], plans: &[(String, HostPlan)]) -> Vec<ClientId> {
    let of_plan = |turns: &HostTurns| {
        let next = turns.next.iter().map(|next| next.client);
        let parts = turns.parts.iter().map(|part| part.client);
        turns.client.into_iter().chain(next).chain(parts).collect::<Vec<_>>()
    };
    let of_plans = plans.iter().flat_map(|(_, plan)| of_plan(&plan.turns));
    let clients: BTreeSet<ClientId> = shares.iter().map(|share| share.client).chain(of_plans).collect();
    clients.into_iter().collect()
}
