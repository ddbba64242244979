//! What every role of this process works with.

use foreman_runtime::Shutdown;
use foreman_runtime::metrics::Metrics;
use foreman_store::Store;

use crate::config::Config;
use crate::large_reads::LargeReads;
use crate::membership::liveness::Liveness;
use crate::membership::peers::Peers;

/// The process as its roles see it. One for all of them, shared.
pub(crate) struct Worker {
    pub config: Config,
    pub store: Store,
    pub large_reads: LargeReads,
    /// Under which id this process lives, and whether it still may act under it.
    pub liveness: Liveness,
    /// Which other workers are dead.
    pub peers: Peers,
    pub shutdown: Shutdown,
    pub metrics: Metrics,
}
