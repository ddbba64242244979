//! The parts of the process that all its roles share.

use foreman_runtime::Shutdown;
use foreman_runtime::metrics::Metrics;
use foreman_store::{Seal, Store};

use crate::config::Config;
use crate::large_reads::LargeReads;
use crate::membership::liveness::Liveness;
use crate::membership::peers::Peers;
use crate::stream::live::LiveAnswers;

/// One value for the whole process, shared by all roles.
pub(crate) struct Worker {
    pub config: Config,
    pub store: Store,
    pub large_reads: LargeReads,
    /// The answers of running attempts.
    pub live: LiveAnswers,
    /// Where apis find them. `None` without the role `run`.
    pub stream_url: Option<String>,
    /// The id under which this process lives, and whether it may still act under that id.
    pub liveness: Liveness,
    /// Which other workers are dead.
    pub peers: Peers,
    pub shutdown: Shutdown,
    pub metrics: Metrics,
}

impl Worker {
    /// Unseals the secrets of clients and endpoints. `None` without `FOREMAN_SECRET_KEY`.
    pub(crate) fn seal(&self) -> Option<Seal> {
        let keys = self.config.secret_keys.as_ref()?;
        Some(Seal::new(keys.current.bytes()).and_previous(keys.previous_bytes()))
    }
}
