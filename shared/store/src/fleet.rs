//! The fleet: the workers that live, the Ollama host that each of them holds, and the models on those hosts.

pub(crate) mod worker;
pub(crate) mod host;
pub(crate) mod inventory;
