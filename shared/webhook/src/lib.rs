//! What a webhook is: the event bodies, their signatures, when to try again, and which receivers may be called.
//!
//! Everything here is pure but for name resolution, and it must stay so: no HTTP client, no database, no clock
//! of its own where a caller can hand one in. The sender in the worker and the routes of the api build on it.

pub mod event;
pub mod guard;
pub mod reaction;
pub mod receiver_url;
pub mod schedule;
pub mod secret;
pub mod sign;
pub mod timestamp;

pub use event::{Artifact, ArtifactContent, Event};
pub use guard::{Allow, Guard, GuardError, SubmissionCheck};
pub use reaction::{Failure, Reaction};
pub use receiver_url::{ReceiverUrl, UrlError};
pub use schedule::{Attempt, Decision, RetrySchedule};
pub use secret::SigningSecret;
pub use timestamp::rfc3339;
