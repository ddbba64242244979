//! Clients: how they prove who they are, which jobs they may see, on which terms they are served, and how many bytes they
//! have stored.

pub(crate) mod credentials;
pub(crate) mod sign_in;
pub(crate) mod reseal;
pub(crate) mod seal;
pub(crate) mod address;
pub(crate) mod scope;
pub(crate) mod stored_bytes;
pub(crate) mod terms;
