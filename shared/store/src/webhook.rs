//! Webhooks: the [`relay`] makes them, a dispatcher finds them by their lanes, claims them and settles them, and the api
//! reads them.

pub(crate) mod receiver;
pub(crate) mod endpoint;
pub(crate) mod signing_secrets;

pub(crate) mod relay;
pub(crate) mod lane;
pub(crate) mod lane_news;
pub(crate) mod claim;
mod inside;
pub(crate) mod settle;
pub(crate) mod view;
