//! The chores that nobody asks for: jobs whose time has come or has passed, jobs of dead workers and of dead apis,
//! partitions, statistics, and the end of what is old. Any number of janitors may work beside each other, and none waits for another.
//!
//! Each chore is a loop of its own, so that a chore that fails or takes long does not hold up the others.

mod missing;
mod orphans;
mod partitions;
mod promote;
mod rescue;
mod since;
mod statistics;
mod sweep;

use std::sync::Arc;

use foreman_runtime::metrics::Metric;

use crate::worker::Worker;

pub(crate) const METRICS: &[Metric] = &[rescue::RESCUES];

/// Does the chores until the process stops.
pub(crate) async fn run(worker: Arc<Worker>) -> anyhow::Result<()> {
    let shared = || Arc::clone(&worker);
    tokio::join!(
        promote::run(shared()),
        rescue::run(shared()),
        orphans::run(shared()),
        partitions::make(shared()),
        partitions::drop_old(shared()),
        statistics::run(shared()),
        sweep::run(&worker, sweep::Expiry::new(shared()), sweep::SOON),
        sweep::run(&worker, missing::MissingModels::new(shared()), missing::EVERY),
        sweep::run(&worker, sweep::OldDeliveries::new(shared()), sweep::SOMETIMES),
        sweep::run(&worker, sweep::IdempotencyKeys::new(shared()), sweep::SOMETIMES),
        sweep::run(&worker, sweep::Lanes(shared()), sweep::SOMETIMES),
        sweep::run(&worker, sweep::Usage::new(shared()), sweep::SOMETIMES),
        sweep::run(&worker, sweep::OldUsage(shared()), sweep::RARELY),
        sweep::run(&worker, sweep::StoredBytes(shared()), sweep::RARELY),
        sweep::run(&worker, sweep::HostIntents(shared()), sweep::RARELY),
        sweep::run(&worker, sweep::AddressClients(shared()), sweep::RARELY),
    );
    Ok(())
}
