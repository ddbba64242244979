//! The whole queue, as all requests that ask for it share it. A reading takes longer the longer the queue is.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use foreman_store::{ClientId, HostPlan, HostTurns, QueueClient, QueueShare, Store, StoreError};

use crate::shared_reading::SharedReading;

/// A reading is used for at least this long. Nobody needs a newer one.
const MIN_USE: Duration = Duration::from_secs(1);

/// After a reading we rest for this many times as long as it took. So readings use at most a twentieth of one Postgres
/// process. With a million jobs waiting, a reading takes a second and is used for twenty.
const REST: u32 = 19;

/// The queue as it was at one moment, and the hosts as they were at another one.
#[derive(Debug, Clone)]
pub(crate) struct QueueReading {
    pub(crate) jobs: Arc<Jobs>,
    pub(crate) hosts: Arc<Hosts>,
}

/// The jobs that wait and run.
#[derive(Debug)]
pub(crate) struct Jobs {
    /// When they were read.
    pub(crate) as_of: DateTime<Utc>,
    pub(crate) shares: Vec<QueueShare>,
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
    jobs: SharedReading<Jobs>,
    hosts: SharedReading<Hosts>,
}

impl QueueReader {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, jobs: SharedReading::new(MIN_USE, REST), hosts: SharedReading::new(MIN_USE, REST) }
    }

    pub(crate) async fn read(&self) -> Result<QueueReading, StoreError> {
        let read_jobs = async {
            let as_of = self.store.clock().now();
            Ok::<_, StoreError>(Jobs { as_of, shares: self.store.queue().await? })
        };
        let jobs = self.jobs.get(read_jobs).await?;
        let read_hosts = async {
            let plans = self.store.host_plans().await?;
            let clients = self.store.queue_clients(&clients(&jobs.shares, &plans)).await?;
            Ok::<_, StoreError>(Hosts { plans, clients })
        };
        let hosts = self.hosts.get(read_hosts).await?;
        Ok(QueueReading { jobs, hosts })
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
