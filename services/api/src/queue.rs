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

/// The queue as it was at one moment.
#[derive(Debug, Clone)]
pub(crate) struct QueueReading {
    pub(crate) as_of: DateTime<Utc>,
    pub(crate) shares: Arc<Vec<QueueShare>>,
    /// How each host goes about its work, with the host's id.
    pub(crate) plans: Arc<Vec<(String, HostPlan)>>,
    /// The clients that the shares and the plans tell of, by name.
    pub(crate) clients: Arc<Vec<QueueClient>>,
    use_until: Instant,
}

/// Reads the queue when somebody asks and the last reading is too old.
pub(crate) struct QueueReader {
    store: Store,
    /// Locked during a reading, so that all requests that wait for the lock get this reading.
    last: Mutex<Option<QueueReading>>,
}

impl QueueReader {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, last: Mutex::default() }
    }

    pub(crate) async fn read(&self) -> Result<QueueReading, StoreError> {
        let mut last = self.last.lock().await;
        if let Some(reading) = last.as_ref().filter(|reading| Instant::now() < reading.use_until) {
            return Ok(reading.clone());
        }
        let (began, as_of) = (Instant::now(), self.store.clock().now());
        let shares = Arc::new(self.store.queue().await?);
        let plans = Arc::new(self.store.host_plans().await?);
        let clients = self.store.queue_clients(&clients(&shares, &plans)).await?;
        let rest = MIN_USE.max(began.elapsed() * REST);
        let use_until = Instant::now() + rest;
        let reading = QueueReading { as_of, shares, plans, clients: Arc::new(clients), use_until };
        Ok(last.insert(reading).clone())
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
