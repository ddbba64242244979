//! The rules of webhooks: event bodies, signatures, when a delivery is tried again, and which receivers may be called.
//!
//! Must stay pure, except for name resolution: no HTTP client and no database. It reads a clock only if the caller cannot
//! pass the time. The worker's sender and the api's routes use this crate.

pub mod event;
pub mod guard;
pub mod reaction;
pub mod receiver_url;
pub mod schedule;
pub mod secret;
pub mod sign;
pub mod timestamp;

pub use event::{Artifact, ArtifactContent, Event};
pub use guard::{Allow, Guard, GuardError, Nameservers, Policy, SubmissionCheck};
pub use reaction::{Failure, Reaction};
pub use receiver_url::{ReceiverUrl, UrlError};
pub use schedule::{Attempt, DeliveryDecision, RetrySchedule};
pub use secret::SigningSecret;
pub use timestamp::rfc3339;
