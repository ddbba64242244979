//! The connections to Postgres and what every statement needs of them: the clock, errors, the schema, the days of the
//! partitions, statistics, wake-ups.

pub(crate) mod conn;
pub(crate) mod connect;
pub(crate) mod deadline;
pub(crate) mod error;
pub(crate) mod moment;
pub(crate) mod once;
pub(crate) mod own_connection;
pub(crate) mod partition;
pub(crate) mod schema;
pub(crate) mod statistics;
pub mod wake;
