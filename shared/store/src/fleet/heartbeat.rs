//! How one process knows that another one is dead.
//!
//! Must never decide by Postgres' clock whether a process lives.

use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

/// The row of a worker or an api as it was seen once. `renewed_at` changes with every renewal. One look cannot tell
/// whether the process lives, because somebody may have set Postgres' clock since the renewal. A process is dead if the
/// looker has seen the same row for a whole `ttl` by the looker's own clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heartbeat<Id> {
    pub id: Id,
    pub renewed_at: DateTime<Utc>,
    /// How long this process may be silent.
    pub ttl: Duration,
}

/// The dead processes as statements take them. A statement treats a process as dead only while its row is as it was
/// seen.
pub(crate) fn dead_columns<Id: Copy + Into<Uuid>>(dead: &[Heartbeat<Id>]) -> (Vec<Uuid>, Vec<DateTime<Utc>>) {
    dead.iter().map(|heartbeat| (heartbeat.id.into(), heartbeat.renewed_at)).unzip()
}
