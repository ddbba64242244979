//! The connections to Postgres, and what every statement shares: deadlines, errors, the clock, the schema with its daily
//! partitions, and the wake-ups after a commit. Nothing here knows what a job is.

pub(crate) mod connect;
pub(crate) mod conn;
pub(crate) mod once;
pub(crate) mod own_connection;
pub(crate) mod deadline;
pub(crate) mod drain_bound;
pub(crate) mod error;
pub(crate) mod clock;
pub(crate) mod schema;
pub(crate) mod partition;
pub(crate) mod statistics;
mod readiness;
pub mod wake;
