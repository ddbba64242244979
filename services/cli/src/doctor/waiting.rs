//! What waits for a worker at this moment.

use std::time::Duration;

use foreman_store::{DeliveryBacklog, ModelBacklog, OrphanedLeases, Store, StoreError};

/// What waits for somebody.
pub(super) struct Waiting {
    pub(super) models: Vec<ModelBacklog>,
    pub(super) leases: OrphanedLeases,
    pub(super) outbox: Duration,
    pub(super) deliveries: DeliveryBacklog,
}

impl Waiting {
    pub(super) async fn of(store: &Store) -> Result<Self, StoreError> {
        Ok(Self {
            models: store.model_backlogs().await?,
            leases: store.orphaned_leases().await?,
            outbox: store.outbox_oldest().await?,
            deliveries: store.delivery_backlog().await?,
        })
    }

    /// Jobs that could run now.
    pub(super) fn jobs(&self) -> i64 {
        self.models.iter().filter(|model| !model.oldest.is_zero()).map(|model| model.queued).sum()
    }
}
