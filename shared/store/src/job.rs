//! Jobs: what may become of them ([`transition`]), and what can be read of them.

pub(crate) mod artifact;
pub(crate) mod history;
pub(crate) mod lease;
pub(crate) mod new_job;
pub(crate) mod progress;
pub(crate) mod queue_shares;
pub(crate) mod queued;
pub(crate) mod request;
pub(crate) mod rooms;
pub(crate) mod state;
pub(crate) mod transition;
pub(crate) mod view;
