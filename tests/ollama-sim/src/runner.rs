//! The processes that hold models: how one is requested, how it can fail, and which of them has to go.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::faults::{Due, SERVER_BUSY, Trouble};
use crate::keep_alive::KeepAlive;
use crate::model::Model;
use crate::options::RunnerOptions;

/// A request for a runner.
#[derive(Debug)]
pub(crate) struct Want {
    pub(crate) model: Arc<Model>,
    pub(crate) options: RunnerOptions,
    pub(crate) keep_alive: Option<KeepAlive>,
    /// The model as the client wrote it, and the body, by which a fault of the load is matched.
    pub(crate) written: String,
    pub(crate) body: Bytes,
    /// The fault that the prompt orders for a load.
    pub(crate) ordered_fault: Option<Due>,
}

/// Why there is no runner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoRunner {
    Busy,
    Failed { status: u16, text: String },
    Reset,
}

impl NoRunner {
    /// Status and text, or `None` if the connection is to be cut instead.
    pub(crate) fn answer(self) -> Option<(u16, String)> {
        match self {
            Self::Busy => Some((503, SERVER_BUSY.to_owned())),
            Self::Failed { status, text } => Some((status, text)),
            Self::Reset => None,
        }
    }
}

/// A process that holds one model.
#[derive(Debug)]
pub(crate) struct Runner {
    pub(crate) model: Arc<Model>,
    pub(crate) options: RunnerOptions,
    pub(crate) slots: Arc<Semaphore>,
    /// Cancelled when the process dies unexpectedly.
    pub(crate) killed: CancellationToken,
    /// Cancelled when the model is no longer resident.
    pub(crate) gone: CancellationToken,
    /// True after the load; closed if the load failed.
    pub(crate) loaded: watch::Sender<bool>,
    pub(crate) rearm: Notify,
}

/// The changing values of a resident model.
#[derive(Debug)]
pub(crate) struct Resident {
    pub(crate) runner: Arc<Runner>,
    pub(crate) ready: bool,
    pub(crate) users: usize,
    pub(crate) keep_alive: KeepAlive,
    pub(crate) expires_at: Option<Instant>,
    /// When the expiry task will look next.
    pub(crate) armed: Option<Instant>,
}

impl Resident {
    pub(crate) fn serves(&self, want: &Want) -> bool {
        self.ready && !self.runner.killed.is_cancelled() && self.runner.options.serve(&want.options)
    }
}

/// The model that Ollama unloads: an idle one before a busy one, then the one with the shortest keep-alive, then the
/// first by its weights. The time of its last use does not count.
pub(crate) fn victim(residents: &HashMap<String, Resident>) -> Option<String> {
    let rank = |(weights, resident): &(&String, &Resident)| {
        (resident.users > 0, resident.keep_alive, (*weights).clone())
    };
    residents.iter().min_by_key(rank).map(|(weights, _)| weights.clone())
}

pub(crate) fn killed() -> NoRunner {
    NoRunner::Failed { status: 500, text: "llama-server process has terminated: signal: killed".to_owned() }
}

/// Waits for the time of a load, and carries out a fault half-way.
pub(crate) async fn run_load(delay: Duration, fault: Option<Due>) -> Result<(), NoRunner> {
    let Some(fault) = fault else {
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        return Ok(());
    };
    tokio::time::sleep(delay / 2).await;
    match fault.what {
        Trouble::Error { status, text } => Err(NoRunner::Failed { status, text }),
        Trouble::RunnerKilled => Err(killed()),
        Trouble::Reset | Trouble::EndEarly => Err(NoRunner::Reset),
        Trouble::Hang => std::future::pending().await,
    }
}
