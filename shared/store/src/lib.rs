//! Every table, every SQL statement and every state transition of Foreman. No other crate has SQL.
//!
//! A [`Store`] is a handle on one Postgres. Each of its methods runs one statement or one short transaction. Must
//! never keep a transaction open while it talks to anything except Postgres.
//!
//! The names re-exported here are for other crates. A module of this crate imports a name from the module that
//! defines it. No two modules import from each other, except a parent and its children.

pub mod id;
mod db;
mod client;
mod job;
mod fleet;
mod webhook;
mod upkeep;
mod gauges;
mod usage;
mod checkup;

pub use checkup::{
    ClientSecret, DatabaseAddress, EndpointSecrets, OpenTransaction, OrphanedLeases, Reached, Rights,
    SchemaState, SealedSecret, Server, Unreachable, WorkerRow,
};
pub use client::address::AddressClient;
pub use client::credentials::{Client, ClientError, Credentials};
pub use client::reseal::{Resealed, SealedPlace};
pub use client::scope::Scope;
pub use client::seal::{Seal, UnsealError};
pub use client::sign_in::{KeyDigest, SignedIn};
pub use client::terms::{ClientTerms, OwnTerms, Term, TermsChange};
pub use db::clock::{CLOCK_TOLERANCE, Clock, ulid_floor};
pub use db::conn::Conn;
pub use db::connect::{ConnectOptions, Store};
pub use db::drain_bound::DrainBound;
pub use db::error::StoreError;
pub use db::partition::{PartitionUpkeep, days_ahead_needed};
pub use db::schema::{MigrateError, schema_version_needed};
pub use db::wake;
pub use fleet::api::Orphaned;
pub use fleet::forecast::{Forecast, Foreseen, ForeseenGroup, HeldBack, PublishedForecast};
pub use fleet::heartbeat::Heartbeat;
pub use fleet::host::{HostOffer, PublishedModel};
pub use fleet::host_intent::{HostIntent, NeighbourHost};
pub use fleet::host_plan::{HostPlan, MeasuredContext, MeasuredRunner};
pub use fleet::host_row::HostRow;
pub use fleet::host_turns::{GpuPart, HostTurns, LoadedRunner, NextTurn, Why};
pub use fleet::inventory::{Inventory, KnownModel};
pub use fleet::stream::{LeaseAddress, StreamAddress};
pub use fleet::unload::Unload;
pub use fleet::worker::{OwnLease, Renewal};
pub use gauges::{DeliveryBacklog, ModelBacklog};
pub use id::{ApiId, ClientId, DeliveryId, EndpointId, InvalidId, JobId, LaneId, LeaseNo, WorkerId};
pub use job::artifact::{ArtifactHead, ArtifactView, artifact_piece};
pub use job::client_backlog::{ClientBacklog, CountedBacklog};
pub use job::history::{JobEvent, JobHistory};
pub use job::lease::{Holder, Lease};
pub use job::new_job::{IdempotencyKey, JobRequest, NewJob};
pub use job::progress::Progress;
pub use job::queue_shares::{QueueClient, QueueShare};
pub use job::ready_groups::{FoundGroups, GroupPlace, ReadyGroup};
pub use job::request::RequestSize;
pub use job::rooms::Misplaced;
pub use job::state::{JobState, Phase};
pub use job::transition::{
    Reason,
    accept::{AcceptError, Acceptance},
    begin::Begin,
    cancel::Cancelling,
    claim::{AHEAD_FOR, Claimed, Offer, Permit},
    look_up::Flush,
    rescue::{MAX_RESCUES, Rescued},
    settle::{Completion, Exit, Settled},
};
pub use job::user_name::{InvalidUserName, UserName};
pub use job::view::{JobFilter, JobPage, JobView};
pub use upkeep::Swept;
pub use usage::{
    report::{UsageBy, UsageFilter, UsageSum},
    used::Used,
};
pub use webhook::claim::{
    ClaimedDeliveries, Delivery, DeliveryClaim, DeliveryTerms, EndedUnsent, LaneOffer, PIECE,
};
pub use webhook::endpoint::{
    EndpointHeaders, EndpointSettings, EndpointView, EndpointWithSecret, MAX_ENDPOINTS,
    deliveries::{COUNTED_PENDING, EndpointDelivery, EndpointHealth},
    recover::Recovered,
};
pub use webhook::lane::{KnownLane, LaneHead, LaneHealth, LaneSearch, Lanes};
pub use webhook::lane_news::LaneNews;
pub use webhook::receiver::{JobReceiver, Receiver, SecretOwner};
pub use webhook::relay::{ClaimOfNew, EndedJobs, Relayed};
pub use webhook::settle::{DeliveryOutcome, DeliveryReport, ReportSettled};
pub use webhook::signing_secrets::StoredSigning;
pub use webhook::view::{
    AttemptView, DELIVERIES_PER_EVENT_AND_MINUTE, DeliveryFilter, DeliveryPage, DeliveryState, DeliveryView,
    Redelivery, UnknownDeliveryState,
};
