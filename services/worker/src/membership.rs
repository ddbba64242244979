//! This process among its like: under which id it lives, for which host it works, and which of the others are dead.

pub(crate) mod host_id;
pub(crate) mod host_lease;
pub(crate) mod liveness;
pub(crate) mod peers;
