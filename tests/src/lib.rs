//! The ground that Foreman's tests stand on: a Postgres of their own, the real processes, a receiver of webhooks, and
//! one way to wait.
//!
//! Must never be used by the product, and never talk to anything outside loopback.

mod binaries;
mod cluster;
mod database;
mod last_will;
mod line;
mod made;
mod nameserver;
mod ports;
mod process;
mod receiver;
mod seed;
mod services;
mod wait;

pub use binaries::built_for_release;
pub use cluster::Cluster;
pub use database::{Db, LOAD_KEY, copy_of, endpoint_at, reason, success};
pub use line::Line;
pub use made::made;
pub use nameserver::{NameAnswer, NameServer};
pub use ports::free_port;
pub use process::{Pid, Process, Signal};
pub use receiver::{Received, Receiver, ReceiverAnswer};
pub use seed::random;
pub use services::{Api, Worker, http};
pub use wait::{eventually, within};
