//! Who asks, and how much a caller may have of what is finite. Nothing here knows what an answer looks like: a limit that is
//! reached is a [`Refusal`](crate::refusal::Refusal).

pub(crate) mod allowance;
pub(crate) mod auth;
mod each_client;
pub(crate) mod limits;
pub(crate) mod reads;
pub(crate) mod redeliveries;
pub(crate) mod shares;
pub(crate) mod site;
pub(crate) mod source_address;
