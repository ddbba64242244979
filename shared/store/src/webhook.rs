//! Webhooks: made by the [`relay`], found by their lanes, claimed, settled, and read.

pub(crate) mod claim;
pub(crate) mod lane;
pub(crate) mod relay;
pub(crate) mod relay_bound;
pub(crate) mod settle;
pub(crate) mod view;
