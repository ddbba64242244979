//! This worker beside all other workers: the id under which it lives, the host that it works for, and which other
//! workers are dead.

pub(crate) mod host_id;
pub(crate) mod host_lease;
pub(crate) mod liveness;
pub(crate) mod peers;
pub(crate) mod silences;
