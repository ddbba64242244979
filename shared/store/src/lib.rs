//! Every table, every SQL statement and every state transition of Foreman; nothing else has SQL.
//!
//! A [`Store`] is a handle on one Postgres. Its methods each run one statement, or one short transaction that never
//! stays open while anything but Postgres is being talked to.
//!
//! The names that this file gives out are for other crates. A module of this one imports a name from the module that
//! defines it, and no two of them import from each other, but for a parent and its children.

pub mod id;
mod db;
mod client;
mod job;
mod fleet;
mod webhook;
mod upkeep;
mod gauges;
mod checkup;

pub use checkup::{
    ClientSecret, DatabaseAddress, HostRow, OpenTransaction, OrphanedLeases, Reached, Rights, SchemaState,
    SealedSecret, Server, Unreachable, WorkerRow,
};
pub use client::address::AddressClient;
pub use client::credentials::{Client, ClientError, Credentials, KeyDigest, SignedIn};
pub use client::scope::Scope;
pub use client::seal::{Seal, UnsealError};
pub use db::conn::Conn;
pub use db::connect::{ConnectOptions, Store};
pub use db::error::StoreError;
pub use db::moment::{Clock, ulid_floor};
pub use db::partition::{PartitionUpkeep, days_ahead_needed};
pub use db::schema::{MigrateError, schema_version_needed};
pub use db::wake;
pub use fleet::host::{HostOffer, PublishedModel};
pub use fleet::inventory::{Inventory, KnownModel};
pub use fleet::worker::{Heartbeat, OwnLease, Renewal};
pub use gauges::{DeliveryBacklog, ModelBacklog};
pub use id::{ApiId, ClientId, DeliveryId, JobId, LaneId, LeaseNo, WorkerId};
pub use job::artifact::{ArtifactHead, ArtifactView};
pub use job::client_backlog::ClientBacklog;
pub use job::history::{JobEvent, JobHistory};
pub use job::lease::{Holder, Lease};
pub use job::new_job::{IdempotencyKey, JobRequest, NewJob, Receiver};
pub use job::progress::Progress;
pub use job::queue_shares::QueueShare;
pub use job::ready_groups::ReadyGroup;
pub use job::request::RequestSize;
pub use job::rooms::Misplaced;
pub use job::state::{JobState, Phase};
pub use job::transition::{
    Reason,
    accept::{AcceptError, Acceptance},
    begin::Begin,
    cancel::Cancelling,
    claim::{Claimed, Offer},
    look_up::Flush,
    rescue::{MAX_RESCUES, Rescued},
    settle::{Completion, Exit, Settled},
};
pub use job::view::{JobFilter, JobPage, JobView};
pub use upkeep::Swept;
pub use webhook::claim::{ClaimedDeliveries, Delivery, DeliveryClaim, DeliveryTerms, EndedUnsent, LaneOffer};
pub use webhook::lane::{KnownLane, LaneHead, Lanes};
pub use webhook::relay::{EndedJobs, Relayed};
pub use webhook::relay_bound::RelayBound;
pub use webhook::settle::{DeliveryOutcome, DeliveryReport, ReportSettled};
pub use webhook::view::{
    AttemptView, DELIVERIES_PER_EVENT_AND_MINUTE, DeliveryPage, DeliveryState, DeliveryView, Redelivery,
};
