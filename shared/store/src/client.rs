//! Clients: their keys and secrets, what they may see, and how much they have stored.

pub(crate) mod address;
pub(crate) mod credentials;
pub(crate) mod scope;
pub(crate) mod seal;
pub(crate) mod stored_bytes;
