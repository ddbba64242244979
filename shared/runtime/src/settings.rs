//! Every setting of every process, as data.
//!
//! They are in one place for two reasons: a process must not warn of a setting that only another process reads, and one
//! test compares all of them with the README. A service must read every setting that it lists.

pub mod api;
pub mod cli;
pub mod shared;
pub mod worker;

use crate::config::Setting;

/// All settings of all processes.
pub const ALL: &[&[Setting]] = &[shared::PROCESS, shared::JOBS, api::ALL, worker::ALL, cli::ALL];
