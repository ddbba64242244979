//! The webhooks: [`relay`] makes them of the jobs' transitions, [`dispatcher`] sends them.

pub(crate) mod dispatcher;
pub(crate) mod relay;
