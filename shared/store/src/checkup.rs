//! The questions that `foreman doctor` asks Postgres.
//!
//! Must never change anything: every transaction of a store [for a checkup](crate::ConnectOptions::for_checkup) is
//! read-only.

mod reach;
mod server;
mod schema;
mod secrets;
mod fleet;

pub use fleet::{OrphanedLeases, WorkerRow};
pub use reach::{DatabaseAddress, Reached, Unreachable};
pub use schema::SchemaState;
pub use secrets::{ClientSecret, EndpointSecrets, SealedSecret};
pub use server::{OpenTransaction, Rights, Server};
