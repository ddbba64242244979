//! The hosts in `GET /queue`: who has the GPU and why, and who comes next. Must never name another client to a client.

use foreman_store::{HostPlan, HostRow, HostTurns, LoadedRunner, NextTurn, Why};
use serde::Serialize;
use utoipa::ToSchema;

use super::Viewer;

const UNLOADED: &str = "no more jobs wait for it";
const DRAINED: &str = "an administrator has drained the host: no job begins there until it is resumed";

/// A host, by what the worker that holds it has told within the last seconds. Of a host whose Ollama does not answer nothing is
/// told of turns and waits.
#[derive(Serialize, ToSchema)]
pub(crate) struct QueueHost {
    pub(super) host: String,
    /// Whether its Ollama answers. While it does not, no job begins there.
    is_reachable: bool,
    /// The runner that has the GPU: a model, loaded with a context and options. `null` before the first one.
    turn: Option<Turn>,
    /// The runners that are loaded, whether they have the GPU now or not.
    loaded: Vec<Loaded>,
    /// The turns that come next, as things stand, at most 16: those that would follow if each of them cost the same.
    next: Vec<LaterTurn>,
    /// Whether an administrator has drained it. Then what runs there ends, and no turn comes next.
    is_drained: bool,
    /// How many requests run.
    #[schema(minimum = 0)]
    running: usize,
    /// How many requests may run at the same time.
    #[schema(minimum = 0)]
    slots: usize,
    /// The longest time in milliseconds that a client of weight 1 with jobs waits until one of them begins, by what the
    /// host has measured so far and if no other client comes.
    #[schema(minimum = 0)]
    longest_wait_ms: Option<u64>,
    /// The worker's `FOREMAN_MAX_MODEL_WAIT` in milliseconds; `null` as well while its Ollama does not answer.
    #[schema(minimum = 0)]
    max_wait_ms: Option<u64>,
    /// Whether that wait can be kept now, or none is told. With many clients and long loads it cannot, however short the turns
    /// are.
    keeps_max_wait: bool,
}

/// The runner that has the GPU.
#[derive(Serialize, ToSchema)]
pub(crate) struct Turn {
    /// As `/api/tags` names it.
    model: String,
    /// The model and those options with which it is loaded.
    load_key: String,
    /// The length of its context in tokens, where Ollama has told it.
    #[schema(minimum = 1)]
    context: Option<i64>,
    is_loaded: bool,
    /// For whom it was loaded: the caller's own name, the name of any client for an administrator, or `another client`.
    /// `null` where an earlier worker has loaded it. It serves all clients that want it.
    client: Option<String>,
    /// Why it keeps the GPU, or why it does not.
    reason: &'static str,
}

/// A runner that is loaded.
#[derive(Serialize, ToSchema)]
pub(crate) struct Loaded {
    /// As `/api/tags` names it.
    model: String,
    /// The model and those options with which it is loaded.
    load_key: String,
    /// The length of its context in tokens, where Ollama has told it.
    #[schema(minimum = 1)]
    context: Option<i64>,
}

/// A turn that comes later.
#[derive(Serialize, ToSchema)]
pub(crate) struct LaterTurn {
    /// As `/api/tags` names it.
    model: String,
    /// The model and those options with which it will be loaded.
    load_key: String,
    /// The length of its context in tokens, where Ollama has told it.
    #[schema(minimum = 1)]
    context: Option<i64>,
    /// Whose turn it is: the caller's own name, the name of any client for an administrator, or `another client`.
    client: String,
    /// Why it stands at its place.
    reason: &'static str,
}

pub(super) fn host(viewer: &Viewer<'_>, host: &str, plan: &HostPlan) -> QueueHost {
    let HostPlan { turn, longest_wait_ms, turns, .. } = plan;
    let HostTurns { client, context, why, loaded, is_drained, running, slots, max_wait_ms, next, .. } = turns;
    let is_loaded = |LoadedRunner { runner, context }: &LoadedRunner| Loaded {
        model: viewer.model(runner),
        load_key: runner.clone(),
        context: *context,
    };
    let turn = turn.as_ref().map(|load_key| Turn {
        model: viewer.model(load_key),
        load_key: load_key.clone(),
        context: *context,
        is_loaded: plan.turn_is_loaded(),
        client: client.map(|client| viewer.name(client)),
        reason: match why {
            _ if *is_drained => DRAINED,
            // While it is being loaded, and after it was unloaded, it does not stay loaded.
            Why::NoMoreJobs if !plan.turn_is_loaded() => UNLOADED,
            why => words(*why),
        },
    });
    QueueHost {
        host: host.to_owned(),
        is_reachable: true,
        turn,
        loaded: loaded.iter().map(is_loaded).collect(),
        next: next.iter().map(|next| later(viewer, next)).collect(),
        is_drained: *is_drained,
        running: *running,
        slots: *slots,
        longest_wait_ms: *longest_wait_ms,
        max_wait_ms: *max_wait_ms,
        keeps_max_wait: longest_wait_ms.zip(*max_wait_ms).is_none_or(|(longest, max)| longest <= max),
    }
}

/// A host whose Ollama does not answer.
pub(super) fn away(row: &HostRow) -> QueueHost {
    QueueHost {
        host: row.id.clone(),
        is_reachable: false,
        turn: None,
        loaded: Vec::new(),
        next: Vec::new(),
        is_drained: row.drained_at.is_some(),
        running: usize::try_from(row.running).unwrap_or_default(),
        slots: usize::try_from(row.slots).unwrap_or_default(),
        longest_wait_ms: None,
        max_wait_ms: None,
        keeps_max_wait: true,
    }
}

fn later(viewer: &Viewer<'_>, turn: &NextTurn) -> LaterTurn {
    LaterTurn {
        model: viewer.model(&turn.runner),
        load_key: turn.runner.clone(),
        context: turn.context,
        client: viewer.name(turn.client),
        reason: words(turn.why),
    }
}

fn words(why: Why) -> &'static str {
    match why {
        Why::NobodyElseWaits => "nobody waits for another one",
        Why::WantedNext => "the client that comes next wants it too",
        Why::WithinQuantum => "its quantum is not over",
        Why::QuantumIsOver => {
            "its quantum is over and others wait: its turn ends when the jobs that run have ended"
        }
        Why::NoMoreJobs => "no jobs wait for it: it stays loaded until another one is needed",
        Why::OnlyClient => "no other client waits",
        Why::HadLess => "its client has had less of the GPU, for its weight, than those behind it",
        Why::OthersHadLess => "the clients in front have had less of the GPU for their weight",
        Why::OverBudget => "its client has had its budget of the day, so the clients in front go first",
        Why::OthersOverBudget => "the clients behind it have had their budget of the day",
        Why::OthersHaveTurn => {
            "its client has had as much of the GPU as the one behind it, which has the turn now"
        }
        Why::HasTurn => "its client has the turn now, and the clients in front have had no more of the GPU",
        Why::WaitsLonger => "its client has waited longer than those behind it",
        Why::OthersWaitLonger => "the clients in front have waited longer",
        Why::AfterOwn => "another runner of its client comes first, because it was left longer ago",
        Why::Unknown => "its worker is of another version, and gives a reason that this api does not know",
    }
}
