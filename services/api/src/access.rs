//! Finds out which client sent a request, and how much of each limited resource this client may use. A limit that is reached
//! becomes a [`Refusal`](crate::refusal::Refusal). Must never know how an answer is written.

pub(crate) mod allowance;
pub(crate) mod auth;
pub(crate) mod bound;
pub(crate) mod each_client;
mod key;
pub(crate) mod limits;
pub(crate) mod reads;
pub(crate) mod sends;
pub(crate) mod shares;
pub(crate) mod site;
pub(crate) mod source_address;
