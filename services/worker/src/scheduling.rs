//! What the host should do next: which jobs to claim, for which client, and with which runner. Pure: callers pass
//! the time, and nothing here talks to Postgres or Ollama.
//!
//! [`plan`] decides. It asks [`backlog`] where jobs are ready, [`presence`] which models the host has, [`contexts`]
//! which runner serves which jobs, [`residency`] which runners are loaded, [`rotation`] which client and runner have the next turn, [`fairness`] whose jobs come
//! first in a claim, and [`estimates`] how long loads and runs take. [`shares`] and [`gpu_clock`] count what everybody
//! has had, [`division`] tells people of it, and
//! [`first_come`] which loads were saved. [`excerpts`] holds the groups that
//! the scan has found, and [`group_memory`] helps it to find them quickly.

pub(crate) mod backlog;
pub(crate) mod contexts;
pub(crate) mod division;
pub(crate) mod estimates;
pub(crate) mod excerpts;
pub(crate) mod fairness;
pub(crate) mod first_come;
pub(crate) mod gpu_clock;
pub(crate) mod group_memory;
pub(crate) mod key;
pub(crate) mod neighbours;
pub(crate) mod plan;
pub(crate) mod presence;
pub(crate) mod residency;
pub(crate) mod rotation;
#[cfg(test)]
pub(crate) mod samples;
pub(crate) mod shares;
