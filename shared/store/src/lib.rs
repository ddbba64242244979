//! Every table, every SQL statement and every state transition of Foreman; nothing else has SQL.
//!
//! A [`Store`] is a handle on one Postgres. Its methods each run one statement, or one short transaction that never
//! stays open while anything but Postgres is being talked to.

mod client;
mod conn;
mod connect;
mod error;
pub mod id;
mod job;
mod lease;
mod moment;
mod partition;
mod rooms;
mod schema;
mod seal;
mod state;
mod transition;
pub mod wake;

pub use client::{Client, ClientError, Credentials, KeyDigest, SignedIn};
pub use conn::Conn;
pub use connect::{ConnectOptions, Store};
pub use error::StoreError;
pub use id::{ClientId, DeliveryId, JobId, LaneId, LeaseNo, WorkerId};
pub use job::{Acceptance, IdempotencyKey, NewJob, Receiver};
pub use lease::{Begin, Claimed, Completion, Exit, Holder, Lease, Offer, Reason, Settled};
pub use moment::{Clock, ulid_floor};
pub use partition::{PartitionUpkeep, days_ahead_needed};
pub use rooms::Misplaced;
pub use schema::{MigrateError, schema_version_needed};
pub use seal::{Seal, UnsealError};
pub use state::{JobState, Phase};
pub use transition::{Cancelling, MAX_RESCUES, Rescued};
