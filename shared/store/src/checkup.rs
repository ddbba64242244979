//! What `foreman doctor` asks of Postgres.
//!
//! Nothing here changes anything: a store [for a checkup](crate::ConnectOptions::for_checkup) has read-only transactions
//! and no others.

mod fleet;
mod reach;
mod schema;
mod secrets;
mod server;

use std::time::Duration;

pub use fleet::{HostRow, OrphanedLeases, WorkerRow};
pub use reach::{Place, Reached, Unreachable};
pub use schema::SchemaState;
pub use secrets::{ClientSecret, SealedSecret};
pub use server::{OpenTransaction, Rights, Server};

fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value).unwrap_or_default()
}
