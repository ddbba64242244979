//! What this worker gives out to apis: the answers of its running attempts, live, and the word that an attempt has begun.

pub(crate) mod live;
pub(crate) mod server;
