//! Every setting of every process, as data.
//!
//! They stand together so that each process knows the names of the others' and warns of none of them, and so that
//! one test can hold the README to all. A service reads its own and must obey every one it lists.

pub mod api;
pub mod cli;
pub mod shared;
pub mod worker;

use crate::config::Setting;

/// What any process of Foreman may find in its environment.
pub const ALL: &[&[Setting]] = &[shared::PROCESS, shared::JOBS, api::ALL, worker::ALL, cli::ALL];
