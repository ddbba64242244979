//! The fleet: the workers that live, the Ollama host that each of them holds, and the models on those hosts; the apis
//! whose callers wait for answers.

pub(crate) mod heartbeat;
pub(crate) mod worker;
pub(crate) mod host;
pub(crate) mod host_row;
pub(crate) mod drain;
pub(crate) mod unload;
pub(crate) mod host_intent;
pub(crate) mod host_plan;
pub(crate) mod host_turns;
pub(crate) mod forecast;
pub(crate) mod inventory;
pub(crate) mod stream;
pub(crate) mod api;
