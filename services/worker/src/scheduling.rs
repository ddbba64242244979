//! What the host should do next: which jobs to claim, for whom, and with which load key. Pure: everything here is told the
//! time, and talks to nobody.
//!
//! [`plan`] decides, from the [`backlog`], the models that are [`presence`], the [`rotation`] of clients and keys, the
//! [`client_order`] within a key, and [`estimates`] of how long loads and runs take.

pub(crate) mod backlog;
pub(crate) mod client_order;
pub(crate) mod estimates;
pub(crate) mod group_memory;
pub(crate) mod key;
pub(crate) mod plan;
pub(crate) mod presence;
pub(crate) mod rotation;
