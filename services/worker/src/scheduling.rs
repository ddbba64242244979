//! What the host should do next: which jobs to claim, for which client, and with which load key. Pure: callers pass
//! the time, and nothing here talks to Postgres or Ollama.
//!
//! [`plan`] decides. It asks [`backlog`] where jobs are ready, [`presence`] which models the host has, [`rotation`]
//! which client and key have the next turn, [`client_order`] which client comes first within a key, and [`estimates`]
//! how long loads and runs take. [`group_memory`] helps the scan to find ready jobs.

pub(crate) mod backlog;
pub(crate) mod client_order;
pub(crate) mod estimates;
pub(crate) mod group_memory;
pub(crate) mod key;
pub(crate) mod plan;
pub(crate) mod presence;
pub(crate) mod rotation;
