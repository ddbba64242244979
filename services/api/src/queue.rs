//! The whole queue, as all requests that ask for it share it. A reading takes longer the longer the queue is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use foreman_ollama::ModelName;
use foreman_store::{ClientId, HostPlan, HostRow, HostTurns, QueueClient, QueueShare, Store, StoreError};

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
    /// The hosts that a worker holds and whose Ollama does not answer.
    pub(crate) away: Vec<HostRow>,
    /// The longest wait of each model in milliseconds: the longest among the hosts that have it and take jobs. Models are
    /// named as Ollama compares them.
    pub(crate) longest_waits: BTreeMap<String, u64>,
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
            let rows = self.store.hosts().await?;
            let clients = self.store.queue_clients(&clients(&jobs.shares, &plans)).await?;
            let longest_waits = longest_waits(&rows, &plans);
            let is_away = |row: &HostRow| row.holder.is_some() && !row.is_up();
            let away = rows.into_iter().filter(is_away).collect();
            Ok::<_, StoreError>(Hosts { plans, away, longest_waits, clients })
        };
        let hosts = self.hosts.get(read_hosts).await?;
        Ok(QueueReading { jobs, hosts })
    }
}

fn longest_waits(rows: &[HostRow], plans: &[(String, HostPlan)]) -> BTreeMap<String, u64> {
    let mut longest = BTreeMap::new();
    for (host, plan) in plans {
        let takes_jobs = |row: &&HostRow| row.is_up() && row.drained_at.is_none();
        let row = rows.iter().filter(takes_jobs).find(|row| row.id == *host);
        let (Some(row), Some(wait)) = (row, plan.longest_wait_ms) else { continue };
        for label in &row.models {
            let of_model = longest.entry(ModelName::canonical(label)).or_insert(wait);
            *of_model = wait.max(*of_model);
        }
    }
    longest
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

#[cfg(test)]
mod tests {
    use foreman_store::WorkerId;

    use super::*;

    fn row(id: &str, models: &[&str], is_drained: bool) -> HostRow {
        HostRow {
            id: id.to_owned(),
            url: String::new(),
            holder: Some(WorkerId::generate()),
            is_reachable: true,
            slots: 1,
            running: 0,
            drained_at: is_drained.then_some(DateTime::UNIX_EPOCH),
            models: models.iter().map(|&model| model.to_owned()).collect(),
            published: None,
        }
    }

    #[test]
    fn only_hosts_that_have_a_model_and_take_jobs_count_for_its_longest_wait() {
        let rows = [
            row("one", &["Tiny-A:latest"], false),
            row("two", &["tiny-a:latest", "tiny-b:latest"], false),
            row("drained", &["tiny-a:latest", "tiny-c:latest"], true),
            row("untold", &["tiny-d:latest"], false),
            HostRow { is_reachable: false, ..row("away", &["tiny-a:latest"], false) },
            HostRow { holder: None, ..row("left", &["tiny-a:latest"], false) },
        ];
        let plan = |host: &str, longest_wait_ms| {
            (host.to_owned(), HostPlan { longest_wait_ms, ..HostPlan::default() })
        };
        let plans = [
            plan("one", Some(70)),
            plan("two", Some(50)),
            plan("drained", Some(90)),
            plan("untold", None),
            plan("away", Some(90)),
            plan("left", Some(90)),
            plan("unknown", Some(99)),
        ];
        let longest = longest_waits(&rows, &plans);
        assert_eq!(longest, [("tiny-a:latest".to_owned(), 70), ("tiny-b:latest".to_owned(), 50)].into());
    }
}
