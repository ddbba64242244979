//! The workers, the hosts that they hold, and the models that the hosts have.

pub(crate) mod host;
pub(crate) mod inventory;
pub(crate) mod worker;
