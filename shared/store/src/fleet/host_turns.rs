//! Whose turn it is on a host, who comes next, and how the GPU's time was divided: for people who look at the queue.
//!
//! Must never be needed for a decision.

use serde::{Deserialize, Serialize};

use crate::id::ClientId;

/// What a holder tells people of the turns on its host.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostTurns {
    /// The client for which the runner that has the turn was loaded. `None` where an earlier holder has loaded it.
    pub client: Option<ClientId>,
    /// The context length of that runner, where Ollama has told it.
    pub context: Option<i64>,
    /// Why that runner keeps its turn, or why it ends.
    pub why: Why,
    /// The runners that are loaded.
    pub loaded: Vec<LoadedRunner>,
    /// Whether an operator has drained the host. Then no turn comes next.
    pub is_drained: bool,
    /// How many of the host's slots are in use.
    pub running: usize,
    pub slots: usize,
    /// The setting `FOREMAN_MAX_MODEL_WAIT`, in milliseconds. `None` where a worker of the version before this one has
    /// told the plan.
    pub max_wait_ms: Option<u64>,
    /// The turns that come next, as things stand.
    pub next: Vec<NextTurn>,
    /// How much of the GPU's time all clients together have got in the last hour, in seconds.
    pub gpu_seconds: f64,
    /// How it was divided.
    pub parts: Vec<GpuPart>,
}

/// A runner that is loaded, whether it has the turn or not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoadedRunner {
    /// A load key, with the context that is loaded.
    pub runner: String,
    /// The length of that context, where Ollama has told it.
    pub context: Option<i64>,
}

/// A turn that comes later.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NextTurn {
    /// A load key, with the context that will be loaded.
    pub runner: String,
    /// The length of that context, where Ollama has told it.
    pub context: Option<i64>,
    pub client: ClientId,
    /// Why it stands at its place in the line.
    pub why: Why,
}

/// One client's part of the GPU's time, in seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GpuPart {
    pub client: ClientId,
    /// What was due to it by its weight, while it had jobs.
    pub due: f64,
    pub got: f64,
}

/// Why a runner has the turn, or stands at its place in the line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// It has the turn, and nobody waits for another runner.
    NobodyElseWaits,
    /// It has the turn, and the client that comes next wants this runner too.
    WantedNext,
    /// It has the turn, and its quantum is not over.
    WithinQuantum,
    /// It has the turn. Its quantum is over and others wait.
    QuantumIsOver,
    /// It has the turn, and no jobs are left for it.
    NoMoreJobs,
    /// No other client waits.
    OnlyClient,
    /// Its client has had less of the GPU for its weight than those behind it.
    HadLess,
    /// The clients in front of its client have had less of the GPU for their weight.
    OthersHadLess,
    /// Its client has had its budget of the day, and the clients in front have not.
    OverBudget,
    /// The clients behind its client have had their budget of the day.
    OthersOverBudget,
    /// Its client has had as much as those behind it, and one of them has the turn now.
    OthersHaveTurn,
    /// Its client has had as much as those in front, and has the turn now.
    HasTurn,
    /// Its client has had as much as those behind it, and waits for longer.
    WaitsLonger,
    /// Its client has had as much as those in front, and they wait for longer.
    OthersWaitLonger,
    /// Another runner of its client was left longer ago.
    AfterOwn,
    /// Another version of Foreman tells a reason that this one does not know.
    #[default]
    #[serde(other)]
    Unknown,
}
