//! Every table, every SQL statement and every state transition of Foreman; nothing else has SQL.
//!
//! A [`Store`] is a handle on one Postgres. Its methods each run one statement, or one short transaction that never
//! stays open while anything but Postgres is being talked to.
//!
//! The names that this file gives out are for other crates. A module of this one imports a name from the module that
//! defines it, and no two of them import from each other, but for a parent and its children.

mod address;
mod artifact;
mod checkup;
mod client;
mod conn;
mod connect;
mod deadline;
mod delivery;
mod delivery_settle;
mod delivery_view;
mod error;
mod gauges;
mod history;
mod host;
pub mod id;
mod inventory;
mod job;
mod lane;
mod lease;
mod moment;
mod once;
mod own_connection;
mod partition;
mod progress;
mod queue;
mod queued;
mod relay;
mod relay_bound;
mod request;
mod rooms;
mod schema;
mod scope;
mod seal;
mod state;
mod statistics;
mod stored;
mod transition;
mod upkeep;
mod view;
pub mod wake;
mod worker;

pub use address::AddressClient;
pub use artifact::{ArtifactHead, ArtifactView};
pub use checkup::{
    ClientSecret, HostRow, OpenTransaction, OrphanedLeases, Place, Reached, Rights, SchemaState,
    SealedSecret, Server, Unreachable, WorkerRow,
};
pub use client::{Client, ClientError, Credentials, KeyDigest, SignedIn};
pub use conn::Conn;
pub use connect::{ConnectOptions, Store};
pub use delivery::{ClaimedDeliveries, Delivery, DeliveryClaim, DeliveryTerms, EndedUnsent, LaneOffer};
pub use delivery_settle::{DeliveryReport, ReportSettled, Verdict};
pub use delivery_view::{
    AttemptView, DELIVERIES_PER_EVENT_AND_MINUTE, DeliveryPage, DeliveryState, DeliveryView, Redelivery,
};
pub use error::StoreError;
pub use gauges::{DeliveryBacklog, ModelBacklog};
pub use history::{JobEvent, JobHistory};
pub use host::{HostOffer, PublishedModel};
pub use id::{ApiId, ClientId, DeliveryId, JobId, LaneId, LeaseNo, WorkerId};
pub use inventory::{Inventory, KnownModel};
pub use job::{IdempotencyKey, NewJob, Receiver};
pub use lane::{KnownLane, LaneHead, Lanes};
pub use lease::{Holder, Lease};
pub use moment::{Clock, ulid_floor};
pub use partition::{PartitionUpkeep, days_ahead_needed};
pub use progress::Progress;
pub use queue::QueueShare;
pub use queued::Queued;
pub use relay::{Ended, Relayed};
pub use relay_bound::RelayBound;
pub use request::{RequestSize, StoredRequest};
pub use rooms::Misplaced;
pub use schema::{MigrateError, schema_version_needed};
pub use scope::Scope;
pub use seal::{Seal, UnsealError};
pub use state::{JobState, Phase};
pub use transition::{
    Reason,
    accept::{AcceptError, Acceptance},
    begin::Begin,
    cancel::Cancelling,
    claim::{Claimed, Offer},
    look_up::Flush,
    rescue::{MAX_RESCUES, Rescued},
    settle::{Completion, Exit, Settled},
};
pub use upkeep::Swept;
pub use view::{JobFilter, JobPage, JobView};
pub use worker::{Heartbeat, OwnLease, ReadyTriple, Renewal};
