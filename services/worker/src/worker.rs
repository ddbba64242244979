//! What every role of this process works with.

use foreman_runtime::Shutdown;
use foreman_store::{Store, wake::Wakeups};

use crate::config::Config;

/// The process as its roles see it. One for all of them, shared.
#[derive(Debug)]
pub(crate) struct Worker {
    pub config: Config,
    pub store: Store,
    pub wakeups: Wakeups,
    pub shutdown: Shutdown,
}
