//! Jobs: how one is offered, every way it moves ([`transition`]), and what people and services read of it.

pub(crate) mod user_name;
pub(crate) mod new_job;
pub(crate) mod state;
pub(crate) mod lease;
pub(crate) mod transition;
pub(crate) mod rooms;
pub(crate) mod ready_groups;
pub(crate) mod view;
pub(crate) mod history;
pub(crate) mod progress;
pub(crate) mod artifact;
pub(crate) mod request;
mod repeat;
pub(crate) mod client_backlog;
pub(crate) mod queue_shares;
